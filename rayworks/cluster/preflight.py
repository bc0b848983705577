"""Whether driver and workers fit each other. :func:`disagreements` is pure; :func:`look` runs on both sides."""

import importlib.metadata
import platform
import urllib.request
from dataclasses import dataclass

from rayworks.errors import ClusterError, StorageError

PACKAGES = ("ray", "prefect", "rayworks")


@dataclass(frozen=True)
class View:
    """What one process sees: of itself, of the Prefect API and of the storage."""

    node: str
    versions: dict[str, str]
    """Of Python and of each package in :data:`PACKAGES`; empty text when it is not installed."""
    problems: tuple[str, ...] = ()
    """What it cannot reach, each a sentence."""


def look(node: str, api_url: str | None, storage_uri: str | None) -> View:
    """See from this process."""
    versions = {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}
    problems = [problem for problem in (_api_problem(api_url), _storage_problem(storage_uri)) if problem]
    return View(node, versions, tuple(problems))


def disagreements(driver: View, workers: list[View]) -> list[str]:
    """What is wrong, one sentence for each node and thing; empty when all is well."""
    found: list[str] = []
    for worker in workers:
        for name, wanted in driver.versions.items():
            seen = worker.versions.get(name, "")
            if not seen:
                found.append(f"{name} is not installed on {worker.node}")
            elif seen != wanted:
                found.append(f"{name} is {seen} on {worker.node} and {wanted} here")
        found += [f"{problem} on {worker.node}" for problem in worker.problems]
    return found


def check(driver: View, workers: list[View]) -> None:
    """Raise ClusterError with all that is wrong, if anything is."""
    if found := disagreements(driver, workers):
        raise ClusterError(
            "the Ray workers do not fit this run",
            said="; ".join(found),
            remedy="Use one image for driver, head and workers, and a Prefect API and storage that all reach",
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _api_problem(api_url: str | None) -> str:
    if api_url is None:
        return ""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=10):
            return ""
    except OSError as error:
        return f"the Prefect API {api_url} cannot be reached ({error})"


def _storage_problem(storage_uri: str | None) -> str:
    from rayworks import storage

    if storage_uri is None:
        return ""
    try:
        storage.check_writable(storage_uri)
    except StorageError as error:
        return f"the storage {storage_uri} cannot be written ({error})"
    return ""
