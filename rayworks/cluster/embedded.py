"""Embedded Ray: a Ray cluster on this machine that starts and ends with this process."""

import concurrent.futures
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rayworks.capacity import Nodes
from rayworks.cluster import _private, out_of_memory, ray_init
from rayworks.errors import ClusterError
from rayworks.free_port import free_port

START_SECONDS = 120
"""How long the node may take to start, with as many attempts as fit: ten times as long as on two idle cores."""

logger = logging.getLogger(__name__)


class EmbeddedRay:
    """A Ray cluster of one node, started by this process."""

    is_elsewhere = False

    def __init__(self) -> None:
        self.lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()

    def nodes_to_come(self) -> Nodes:
        return []

    def why_none_comes(self, requests: Mapping[str, float]) -> str:
        return ""

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        # "local" is never another Ray that happens to run on this machine.
        arguments = {"address": "local", "logging_level": "WARNING", **init_kwargs}
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return _start(arguments, environment, init_kwargs)
            except Exception as error:
                if _private.NODE_TOO_SLOW in str(error) and time.monotonic() < deadline:
                    logger.warning("Ray is started again, since this machine is busy: %s", error)
                    continue
                raise ClusterError(
                    "Ray could not be started on this machine",
                    detail=str(error),
                    remedy="Check that memory and disk space in /tmp are free, that the machine is not overloaded, "
                    "and that no firewall blocks local ports",
                ) from error

    def release(self) -> None:
        import ray

        ray.shutdown()

    def dashboard(self) -> str | None:
        try:
            return ray_init.url_of(_private.dashboard_address())
        except TimeoutError as error:
            logger.warning("Ray runs without its dashboard: %s", error)
            return None

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        return out_of_memory.explain(task, str(error))


def _start(arguments: Mapping[str, Any], environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
    with (
        _private.processes_in_own_sessions(),
        _private.only_used_processes(init_kwargs),
        _private.time_to_start(START_SECONDS),
    ):
        ray_init.connect(arguments, environment={**_environment(init_kwargs), **environment})


def _environment(init_kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables to start Ray with, which its workers inherit."""
    port = free_port()
    return {
        # Ray would use a token that it finds on this machine, though the token belongs to another cluster.
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
        "PYTHONPATH": _import_path(),
        **_private.gcs_port(port),
        **_private.cluster_address(f"{_private.node_ip(init_kwargs)}:{port}"),
        **_private.no_preemption_watcher(),
        **_private.CONNECT_TO_RAYLET,
        **_private.OOM_RETRIES,
    }


def _import_path() -> str:
    """Return the folders where this process finds modules, apart from those of its Python.

    Ray itself adds only the script's folder to its workers' import path.
    """
    python_folders = (sys.prefix, sys.base_prefix)
    added = [folder for folder in sys.path[1:] if os.path.isdir(folder) and not folder.startswith(python_folders)]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(folder for folder in [*inherited, *added] if folder))
