"""What a driver outside of Kubernetes sends to its cluster: code and files, and the settings that hold there."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rayworks

LOOPBACK = re.compile(r"://(127\.[\d.]+|localhost|\[?::1\]?)[:/]")
PLACES = {"PREFECT_API_URL", "RAYWORKS_STORAGE_URI", "RAYWORKS_MLFLOW_TRACKING_URI"}
"""Variables that may name something that only the driver's machine has."""


def runtime_env(folder: Path) -> dict[str, Any]:
    """Return the part of a Ray runtime environment that uploads a folder, and rayworks itself.

    Ray leaves out what ``.gitignore`` names.
    """
    package = Path(rayworks.__file__).resolve().parent
    environment: dict[str, Any] = {"working_dir": str(folder), "excludes": [".git", ".venv", "**/__pycache__"]}
    if not package.is_relative_to(folder.resolve()):
        environment["py_modules"] = [str(package)]
    return environment


def reachable_from_pods(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that name something only the driver's machine has: the pods have their own."""
    return {name: value for name, value in environment.items() if name not in PLACES or _is_shared(value)}


def _is_shared(uri: str) -> bool:
    return "://" in uri and not LOOPBACK.search(uri) and not uri.startswith(("file://", "sqlite:"))
