"""What this package uses of Prefect beyond its documented interface, in one place. Read in Prefect 3.8.8.

Each function says what it relies on and why. ``tests/seams/test_prefect_seams.py`` fails when a release of Prefect
changes it.
"""

import functools
import importlib
import json
import logging
import os
import runpy
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from anyio.abc import Process, TaskStatus
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.runner._control_channel import ControlChannel
    from prefect.runner._process_manager import ProcessHandle

logger = logging.getLogger(__name__)

SERVER_AWAY_SECONDS = 180.0
"""How long a pod that is told to end waits for the Prefect server. ``work-pool.json`` gives it two minutes more."""

SERVER_ENVIRONMENT = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""What Prefect sets for its own temporary server (``SubprocessASGIServer._run_uvicorn_command``): a single application,
without the UI and the services that only a lasting server needs."""

# The server ends with the process that started it, even when that process is killed (prctl 1 is PR_SET_PDEATHSIG). It
# is killed at once: an orderly end would wait for clients that no longer exist, and SQLite survives a kill.
_SERVE_UNTIL_PARENT_ENDS = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv.pop(1)):
        sys.exit(0)
else:
    sys.argv.pop(1)
from rayworks.prefect_api._private import close_failed_statements, load_no_collections
close_failed_statements()
load_no_collections()
from uvicorn.main import main
main()
"""


def url_of_temporary_server() -> str | None:
    """Return the API URL of the server that Prefect starts when no API is configured, if this process has started it.

    Prefect reports that URL nowhere else, and Ray workers need it: without it, each worker would start a server.
    Relies on ``SubprocessASGIServer`` being one object per process, and on its ``running`` and ``api_url``. The import
    loads Prefect's whole server, which takes more than a second.
    """
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    return server.api_url if server.running else None


def server_command(port: int) -> list[str]:
    """Return the command that serves Prefect's API on ``port`` of this machine until this process ends.

    Prefect's own command, ``prefect server start``, loads the command line and the UI first, and its temporary server
    is started by a call that waits for it. Relies on the factory ``prefect.server.api.server:create_app``.
    """
    import prefect

    return [
        *(sys.executable, "-c", _SERVE_UNTIL_PARENT_ENDS, str(os.getpid())),
        *("--app-dir", os.path.dirname(os.path.dirname(prefect.__file__))),
        *("--factory", "prefect.server.api.server:create_app", "--lifespan", "on"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
        *("--timeout-graceful-shutdown", "3"),  # without it, uvicorn waits for open connections without a limit
    ]


def load_no_collections() -> None:
    """Let this process, which becomes an embedded server, import no integrations of Prefect.

    It would import all that are installed to list their block types, though it has no page that shows them, and a block
    that is saved brings its type along. prefect-kubernetes alone takes a quarter of the server's start. Relies on
    ``prefect.server.api.server`` calling it as ``prefect.plugins.load_prefect_collections()``.
    """
    from prefect import plugins

    plugins.__dict__["load_prefect_collections"] = dict


def close_failed_statements() -> None:
    """Let this process, which becomes a Prefect server on SQLite, close each statement that fails.

    Up to Python 3.11 the cursor of a failed statement keeps it, and SQLAlchemy's dialect does not close the cursor. So
    the garbage collector does, in the thread of the event loop, where it waits while the cursor's connection waits for
    the lock of the database. The holder of the lock needs the event loop: the server stands still until SQLite gives up
    after a minute. Relies on the dialect executing by ``aiosqlite.Cursor.execute`` and ``executemany``.
    """
    if sys.version_info >= (3, 12):
        return
    import sqlite3

    from aiosqlite import Cursor

    def closing(method: Any) -> Any:
        @functools.wraps(method)
        async def execute(cursor: Cursor, *arguments: Any) -> Any:
            try:
                return await method(cursor, *arguments)
            except sqlite3.Error:
                await cursor.close()
                raise

        return execute

    for name in ("execute", "executemany"):
        setattr(Cursor, name, closing(getattr(Cursor, name)))


def use_api(url: str) -> None:
    """Make ``url`` the Prefect API of this process, although Prefect has read its settings already."""
    os.environ["PREFECT_API_URL"] = url
    read_settings_again()


def read_settings_again() -> None:
    """Make Prefect read its settings from the environment again.

    Relies on ``refresh_global_settings_context``, which is not documented.
    """
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def drain_logs_and_events(timeout: float) -> None:
    """Send what this process has logged and emitted, and wait for it at most ``timeout`` seconds for each kind.

    Prefect does this at the exit of the process, when an embedded server has ended already. Relies on ``drain_all`` of
    the services ``APILogWorker`` and ``EventsWorker``. Each call ends the service; Prefect starts
    another one on demand.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (APILogWorker, EventsWorker):
        cast(Any, service).drain_all(timeout=timeout)


def configure_logging_again() -> None:
    """Make Prefect read its logging settings, such as ``PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL``, from the environment.

    Importing Prefect has configured its loggers already. ``setup_logging`` is not documented, and neither is that it
    changes the level of existing handlers when it is called a second time.
    """
    from prefect.logging.configuration import setup_logging

    setup_logging()


async def supervise_flow_run(engine: "Process", is_given_up: "Callable[[FlowRun], bool]") -> None:
    """Do what ``prefect flow-run execute`` does for ``PREFECT__FLOW_RUN_ID``, with an engine that runs already.

    It cancels the flow run where the server says so, reports it if it crashes, and has it run again where the pod is
    evicted. Prefect starts the engine itself, when it has imported Prefect, and through another process, which prepares
    a workspace. Relies on ``prefect.cli.flow_run.execute`` creating a ``WorkspaceResolvingEngineCommandStarter``, which
    is replaced, on the environment variables that its ``EngineCommandStarter`` sets, and on it asking
    ``_final_state_blocking_reschedule`` for a state that forbids to schedule the run again.

    Args:
        engine: Leads a process group, and executes :func:`run_supervised_engine`.
        is_given_up: Returns whether a flow run must not be scheduled again.
    """
    import anyio
    from prefect.cli import flow_run as command
    from prefect.flows import load_flow_from_flow_run
    from prefect.runner._hook_runner import HookRunner
    from prefect.runner._process_manager import ProcessHandle, create_isolated_termination_scope

    class Starter:
        def __init__(self, *, workspace_root: object, control_channel: "ControlChannel") -> None:
            self._channel = control_channel
            resolve: Any = load_flow_from_flow_run  # its first parameter, the client, is filled in by a decorator
            self.hook_runner = HookRunner(resolve_flow=resolve)

        def close(self) -> None:
            pass

        async def start(
            self, flow_run: "FlowRun", task_status: "TaskStatus[ProcessHandle]" = anyio.TASK_STATUS_IGNORED
        ) -> None:
            environment = {"PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false"}  # the supervisor runs them
            with suppress(RuntimeError):  # without the channel, a cancelled flow run is ended all the same
                port, token = self._channel.register(flow_run.id)
                environment |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
            assert engine.stdin is not None
            await engine.stdin.send(json.dumps(environment).encode() + b"\n")
            await engine.stdin.aclose()
            task_status.started(ProcessHandle(engine, create_isolated_termination_scope(engine.pid)))
            await engine.wait()

    async def state_of_given_up(client: "PrefectClient", flow_run_id: "UUID") -> "State[Any] | None":
        try:
            flow_run = await _read_when_the_server_responds(client, flow_run_id)
        except Exception:
            logger.warning("The flow run cannot be read. It is scheduled again.", exc_info=True)
            return None
        return flow_run.state if is_given_up(flow_run) else None

    command.__dict__.update(
        WorkspaceResolvingEngineCommandStarter=Starter, _final_state_blocking_reschedule=state_of_given_up
    )
    _observe_cancellation_through_outages()
    await command.execute()


def _observe_cancellation_through_outages() -> None:
    """Let this process notice that its flow run is cancelled however long the Prefect server was away before.

    When its websocket has failed, Prefect's observer asks every ten seconds, and gives up after three failures
    (``prefect._internal.observers``). *Cancel* would then leave the flow run working.
    """
    from prefect._internal import observers
    from prefect.utilities.services import critical_service_loop

    polled_for_a_day = functools.partial(critical_service_loop, consecutive=24 * 60 * 6)
    observers.__dict__.update(critical_service_loop=polled_for_a_day)


async def _read_when_the_server_responds(client: "PrefectClient", flow_run_id: "UUID") -> "FlowRun":
    """Read a flow run whose pod is told to end. Nobody else schedules it again, and Prefect's client gives up sooner.

    Raises:
        httpx.HTTPError: The server does not respond for :data:`SERVER_AWAY_SECONDS`.
        prefect.exceptions.ObjectNotFound: It does not know the flow run.
    """
    import anyio
    import httpx
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    end, is_told = anyio.current_time() + SERVER_AWAY_SECONDS, False
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # their pauses grow to half a minute
        while True:
            try:
                return await client.read_flow_run(flow_run_id)
            except httpx.HTTPError as error:
                if anyio.current_time() > end:
                    raise
                if not is_told:
                    logger.warning("The flow run is scheduled again when the Prefect server responds: %r", error)
                is_told = True
                await anyio.sleep(2)


def run_supervised_engine() -> None:
    """Run the flow of the flow run ``PREFECT__FLOW_RUN_ID`` when :func:`supervise_flow_run` says so.

    Relies on ``prefect.engine`` reading the environment variables of its flow run when it is executed, not when what it
    needs is imported.
    """
    importlib.import_module("prefect.flow_engine")
    engine = importlib.import_module("prefect.engine")
    line = sys.stdin.readline()
    if not line:  # the flow run was cancelled, or the supervisor has failed
        return
    os.environ.update(json.loads(line))
    sys.argv[1:] = []
    # `run_module` would warn of a module that was imported already.
    runpy.run_path(str(engine.__file__), run_name="__main__")
