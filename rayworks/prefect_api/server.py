"""Prefect's embedded server, started beside other work instead of before it.

Prefect starts a server of its own when no API is configured, and waits for it before anything else happens. Started
here instead, at the very beginning of a command, it migrates its database while Ray starts.
"""

import atexit
import http.client
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

from rayworks.errors import ClusterError
from rayworks.free_port import free_port

START_SECONDS = 120
"""A fresh home is migrated first, which takes about 20 s on two busy cores; Prefect's own limit of 20 is too tight."""

STORE_SECONDS = 60
"""How long the server may take, when this process ends, to store what it was sent."""

FLUSH_SECONDS = 5
"""How long the server may take to accept the last log lines and events of this process."""

# The server ends with the process that started it, also when that one is killed (prctl 1 is PR_SET_PDEATHSIG). At once:
# nobody is left to wait for an orderly end, and SQLite survives this one.
_SERVE = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv.pop(1)):
        sys.exit(0)
else:
    sys.argv.pop(1)
from uvicorn.main import main
main()
"""


def set_defaults() -> None:
    """Give Prefect's own embedded server time to start, and keep it from reporting telemetry.

    Has no effect on what the environment says already. Call it before Prefect is imported.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", str(START_SECONDS))


_own_url: str | None = None
_expected: dict[str, int] = {}


def is_embedded(api_url: str | None) -> bool:
    """Whether the API at ``api_url`` ends with this process: our own server, or the one that Prefect starts itself."""
    from prefect.settings import PREFECT_API_URL

    return api_url is not None and (api_url == _own_url or not PREFECT_API_URL.value())


def expect(flow_run_id: str, task_runs: int) -> None:
    """Let an embedded server live until it shows that many ended task runs of a flow run.

    It takes their events into memory, and its end would lose those that it has not stored. A server that lives on,
    because it was configured, stores them in its own time.
    """
    if not _expected:
        atexit.register(_await_expected)  # runs before the server's own end, which was registered earlier
    _expected[flow_run_id] = max(task_runs, _expected.get(flow_run_id, 0))


def flush() -> None:
    """Let Prefect's threads send what this process has logged and emitted: without the server, they only complain."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=FLUSH_SECONDS)


def _await_expected() -> None:
    import httpx
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + STORE_SECONDS
    final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
    with get_client(sync_client=True) as client:
        while _expected:
            flow_run_id, wanted = _expected.popitem()
            question = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "task_runs": {"state": final}}
            try:
                while client.request("POST", "/task_runs/count", json=question).json() < wanted:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"it took more than {STORE_SECONDS} seconds")
                    time.sleep(0.1)
            except (httpx.HTTPError, TimeoutError) as error:
                sys.stderr.write(
                    f"Prefect's embedded server may not have stored all task runs of {flow_run_id}: {error}\n"
                )


@dataclass
class EmbeddedServer:
    """A server of this process. It ends with the process, or by :meth:`stop`."""

    process: "subprocess.Popen[bytes]"
    api_url: str

    def wait(self, timeout: float = START_SECONDS) -> None:
        """Return once the server answers.

        Raises:
            ClusterError: It ended, or did not answer within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not _healthy(self.api_url):
            if (code := self.process.poll()) is not None:
                raise ClusterError(
                    "Prefect's embedded server ended while it started",
                    where=self.api_url,
                    detail=f"exit code {code}",
                    remedy="Its own message is above. Check PREFECT_HOME, or set PREFECT_API_URL to a running server",
                )
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Prefect's embedded server did not answer within {timeout:.0f} seconds",
                    where=self.api_url,
                    remedy="Try again on a less busy machine, or set PREFECT_API_URL to a running server",
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, once it has stored what it is expected to, and wait until it is gone. Safe to call twice."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            flush()
            _await_expected()
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start() -> EmbeddedServer | None:
    """Start Prefect's embedded server without waiting for it, and make it the API of this process and its children.

    Call it from the main thread, before anything else of Prefect is used.

    Returns:
        The server, or None when an API URL is configured already (environment, profile or ``prefect.toml``).
    """
    global _own_url
    set_defaults()
    import prefect
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, get_current_settings

    if PREFECT_API_URL.value():
        return None
    port = free_port()
    environment = get_current_settings().to_environment_variables(exclude_unset=True)
    folder = os.path.dirname(os.path.dirname(prefect.__file__))
    # In a session of its own: a Ctrl-C in the terminal reaches the flow, which still has states to report.
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _SERVE, str(os.getpid()), "--app-dir", folder),
            *("--factory", "prefect.server.api.server:create_app", "--lifespan", "on"),
            *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
            *("--timeout-graceful-shutdown", "3"),  # it would wait for connections that nobody will close
        ],
        env={**os.environ, **environment, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    server = EmbeddedServer(process, f"http://127.0.0.1:{port}/api")
    atexit.register(server.stop)
    _own_url = server.api_url
    os.environ["PREFECT_API_URL"] = server.api_url
    refresh_global_settings_context()
    return server


def _healthy(api_url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine, whatever the proxies
    try:
        with direct.open(f"{api_url}/health", timeout=5) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):  # the latter from another program that took the port
        return False
