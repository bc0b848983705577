"""What ``rayworks/prefect_api/_private.py`` uses of Prefect still exists and works as it says. Starts no server."""

import inspect
import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from rayworks.prefect_api import _private


def test_the_url_of_a_temporary_server_is_known_while_it_runs(monkeypatch: pytest.MonkeyPatch):
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    assert SubprocessASGIServer() is server
    assert _private.url_of_temporary_server() is None
    monkeypatch.setattr(server, "running", True)
    monkeypatch.setattr(server, "port", 1234)
    assert _private.url_of_temporary_server() == "http://127.0.0.1:1234/api"
    assert "self.running = True" in inspect.getsource(SubprocessASGIServer.start)


def test_the_command_that_serves_the_api_is_one_that_uvicorn_takes():
    from prefect.server.api.server import create_app
    from uvicorn.main import main

    program, flag, code, parent, *arguments = _private.server_command(1234)
    assert (program, flag, parent) == (sys.executable, "-c", str(os.getpid()))
    compile(code, "<server>", "exec")
    options = main.make_context("uvicorn", arguments).params
    assert options["app"] == f"{create_app.__module__}:{create_app.__name__}"
    assert (options["factory"], options["host"], options["port"]) == (True, "127.0.0.1", 1234)
    assert (Path(options["app_dir"]) / "prefect" / "server").is_dir()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the cursor of a failed statement does not keep it")
@pytest.mark.parametrize("statement", ["INSERT INTO t VALUES (1)", "executemany"])
def test_a_server_closes_the_cursor_of_a_failed_statement(statement: str):
    fails = """
import asyncio, sqlite3, sys, sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from rayworks.prefect_api import _private
_private.close_failed_statements()
import aiosqlite
cursors = []
create = aiosqlite.Cursor.__init__
aiosqlite.Cursor.__init__ = lambda cursor, *arguments: (create(cursor, *arguments), cursors.append(cursor))[0]
async def main():
    async with create_async_engine("sqlite+aiosqlite://").connect() as connection:
        await connection.exec_driver_sql("CREATE TABLE t (x INTEGER PRIMARY KEY)")
        await connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        try:
            if sys.argv[1] == "executemany":
                await connection.execute(sqlalchemy.text("INSERT INTO t VALUES (:x)"), [{"x": 2}, {"x": 1}])
            else:
                await connection.exec_driver_sql(sys.argv[1])
        except sqlalchemy.exc.IntegrityError:
            try:
                await cursors[-1].fetchone()
            except sqlite3.ProgrammingError as error:
                print(error)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", fails, statement], capture_output=True, text=True, check=False)
    assert done.stdout == "Cannot operate on a closed cursor.\n", done.stderr


def test_the_embedded_server_imports_no_integrations():
    from prefect.server.api import server

    assert "        prefect.plugins.load_prefect_collections()\n" in inspect.getsource(server)
    assert "load_no_collections()" in _private.server_command(1234)[2]
    code = """
import sys
from rayworks.prefect_api import _private
_private.load_no_collections()
import prefect.plugins
print(prefect.plugins.load_prefect_collections(), "prefect_ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "{} False\n", done.stderr


def test_the_embedded_server_gets_what_prefect_sets_for_its_temporary_server():
    from prefect.server.api.server import SubprocessASGIServer, create_app

    for name, value in _private.SERVER_ENVIRONMENT.items():
        assert f'"{name}": "{value}"' in inspect.getsource(SubprocessASGIServer._run_uvicorn_command)
        assert f'os.getenv("{name}")' in inspect.getsource(create_app)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_the_server_ends_when_the_process_that_started_it_is_killed():
    starts_and_waits = """
import subprocess, sys, time
from rayworks.prefect_api import _private
program, flag, code, parent, *arguments = _private.server_command(1234)
code = code.replace("from uvicorn.main import main", "import time").replace("main()", "time.sleep(600)")
print(subprocess.Popen([program, flag, code, parent, *arguments]).pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", starts_and_waits], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    pidfd = os.pidfd_open(server)
    parent.kill()
    parent.wait()
    ended, _, _ = select.select([pidfd], [], [], 10)
    assert ended == [pidfd]


def test_the_api_of_a_process_changes_after_prefect_was_imported():
    code = """
import os
os.environ.pop("PREFECT_API_URL", None)
from prefect.settings import PREFECT_API_URL
from rayworks.prefect_api import _private
_private.use_api("http://127.0.0.1:1234/api")
print(PREFECT_API_URL.value(), os.environ["PREFECT_API_URL"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["http://127.0.0.1:1234/api"] * 2, done.stderr


def test_settings_of_the_environment_take_effect_after_prefect_was_imported():
    code = """
import os
from prefect.settings import get_current_settings
def timeout():
    return get_current_settings().server.ephemeral.startup_timeout_seconds
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = str(timeout() + 7)
from rayworks.prefect_api import _private
before = timeout()
_private.read_settings_again()
assert timeout() == before + 7
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_draining_sends_what_was_logged_and_emitted(api):
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
    from prefect.logging.handlers import APILogHandler, emit_api_log

    record = logging.makeLogRecord({"name": "test", "levelno": logging.INFO, "msg": "my last words"})
    record.flow_run_id = uuid4()
    emit_api_log(APILogHandler().prepare(record))
    events: list[str] = []

    class Queue:
        def put(self, item: tuple[str, object]) -> None:
            events.append(item[1].event)  # type: ignore[attr-defined]

    # A program's client needs a websocket, which the stand-in for the API does not have.
    EventsWorker.set_client_override(ProcessPoolForwardingEventsClient, event_queue=Queue())
    try:
        emit_event("rayworks.test", resource={"prefect.resource.id": "rayworks.test"})
        _private.drain_logs_and_events(timeout=10)
    finally:
        EventsWorker.set_client_override(None)
    assert [line["message"] for path, lines in api.posted if path == "/api/logs/" for line in lines] == [
        "my last words"
    ]
    assert events == ["rayworks.test"]


def test_the_level_of_the_terminal_changes_after_prefect_has_configured_its_loggers():
    code = """
import os
os.environ.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", None)
import logging
import prefect.main  # which configures the loggers
from rayworks.prefect_api import _private
logger = logging.getLogger("prefect.any")
logger.warning("printed")
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
_private.configure_logging_again()
logger.error("not printed")
handlers = logging.getLogger("prefect.flow_runs").handlers
assert any(type(handler).__name__ == "APILogHandler" for handler in handlers), handlers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert "prefect.any - printed" in output
    assert "not printed" not in output


def test_the_engine_of_a_supervised_flow_run_is_started_as_prefect_starts_it():
    import prefect.cli.flow_run
    import prefect.engine
    from prefect.runner._starter_engine import EngineCommandStarter

    supervision, engine = map(inspect.getsource, (_private.supervise_flow_run, _private.run_supervised_engine))
    starter = inspect.getsource(EngineCommandStarter.start)
    for variable in ("ENABLE_CANCELLATION_AND_CRASHED_HOOKS", "CONTROL_PORT", "CONTROL_TOKEN"):
        assert f'"PREFECT__{variable}"' in starter
        assert f'"PREFECT__{variable}"' in supervision
    assert 'os.environ.get("PREFECT__FLOW_RUN_ID")' in inspect.getsource(prefect.engine)
    assert 'run_name="__main__"' in engine
    assert 'if __name__ == "__main__":' in inspect.getsource(prefect.engine)
    command = inspect.getsource(prefect.cli.flow_run.execute)
    for used in (
        "WorkspaceResolvingEngineCommandStarter(",
        "workspace_root=",
        "control_channel=",
        "starter.hook_runner",
        "await _final_state_blocking_reschedule(",
    ):
        assert used in command
