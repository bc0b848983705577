"""What pods of a RayCluster change of the command ``ray``. Read in Ray 2.60; ``test_ray_command_seams.py`` tests it."""

import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Generator
from typing import Any, cast

from rayworks.cluster import _private

DASHBOARD_SECONDS = 600
"""How long a head's dashboard may take until it listens. Nothing waits for it."""

logger = logging.getLogger(__name__)


def import_ray_command(command: str) -> None:
    """Import what the command ``ray`` needs for a command of it.

    Ray imports its commands for Serve, jobs and states for each command, with pandas and FastAPI, for two seconds of
    three, and goes on without those that cannot be imported. Those that pods of a RayCluster run need none of them.
    """
    if command in ("start", "kuberay-autoscaler"):
        for commands in ("ray.serve.scripts", "ray.dashboard.modules.job.cli", "ray.util.state.state_cli"):
            sys.modules[commands] = cast(Any, None)
    importlib.import_module("ray.scripts.scripts")


def ray_command(arguments: list[str], seconds: float, *, has_client_server: bool = True) -> None:
    """Run the command ``ray`` in this process.

    Args:
        arguments: Of the command.
        seconds: How long a node that it starts may take, as in :func:`._private.time_to_start`.
        has_client_server: Whether a head that it starts serves drivers outside of the cluster, at ``ray://``.
    """
    command, *_ = [*arguments, ""]
    import_ray_command(command)
    scripts: Any = sys.modules["ray.scripts.scripts"]
    with contextlib.ExitStack() as stack:
        if command == "start":
            os.environ.update(_private.CONNECT_TO_RAYLET)
            stack.enter_context(_private.time_to_start(seconds))
            if "--block" in arguments:  # else this process ends before the dashboard listens
                stack.enter_context(dashboard_beside_node())
            if not has_client_server:
                missing = ImportError("nobody uses it")
                stack.enter_context(_private.replaced(scripts, get_ray_client_dependency_error=lambda: missing))
        scripts.cli(arguments, prog_name="ray")


@contextlib.contextmanager
def dashboard_beside_node() -> Generator[None]:
    """Let ``ray start --head`` start the head's node beside its dashboard within the block, by :mod:`.._private`.

    A thread stores the dashboard's address when it listens. ``ray start --block`` ends when the dashboard does.
    """
    from ray._private.node import Node

    start_api_server = Node.start_api_server

    def start(node: Any, **options: Any) -> None:
        with _private.dashboard_not_awaited():
            start_api_server(node, **options)
        if options["include_dashboard"] is False:
            _private.store_that_no_dashboard_runs(node)
        else:
            threading.Thread(target=_store_dashboard_address, args=(node,), daemon=True).start()

    with _private.replaced(Node, start_api_server=start):
        yield


def _store_dashboard_address(node: Any) -> None:
    try:
        _private.dashboard_address(node, DASHBOARD_SECONDS)
    except TimeoutError as error:
        logger.warning("Ray runs without its dashboard: %s", error)
