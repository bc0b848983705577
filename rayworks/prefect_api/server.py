"""Prefect's embedded server, started beside other work instead of before it.

Prefect starts a temporary server when no API is configured, and waits for it before it does anything else. An embedded
server is started at the very beginning of a command, so that it migrates its database while Ray starts.
"""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rayworks.errors import ClusterError
from rayworks.free_port import free_port
from rayworks.prefect_api import _private
from rayworks.prefect_api.address import configured_api_url

if TYPE_CHECKING:
    import httpx
    from pydantic_settings import BaseSettings

START_SECONDS = 120
"""How long the server may take to start. A new database is migrated first, which takes about 20 s on two busy cores.
Prefect's own limit of 20 s is too short for that."""

STORE_SECONDS = 60
"""How long the server may take, when this process ends, to store the task runs that it was sent."""

STORE_BATCH = 200
"""How many states of task runs, or events, the server stores in one transaction."""

FLUSH_INTERVAL = 1
"""How long, in seconds, a state waits for others of its transaction. Prefect takes whole seconds: with less than one,
``TaskRunRecorder`` loops without a pause."""

FLUSH_SECONDS = 5
"""How long the server may take to accept the last log lines and events of this process."""


def set_defaults() -> None:
    """Give Prefect's own temporary server time to start, turn off its telemetry, and let it store many events at once.

    What the environment or a profile sets is left unchanged.
    """
    from prefect.settings import get_current_settings

    server = get_current_settings().server
    recorder, persister = server.services.task_run_recorder, server.services.event_persister
    defaults: tuple[tuple[BaseSettings, str, str, str], ...] = (
        (server, "analytics_enabled", "PREFECT_SERVER_ANALYTICS_ENABLED", "false"),
        (
            server.ephemeral,
            "startup_timeout_seconds",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
            str(START_SECONDS),
        ),
        # By default each state of a task run is a transaction of its own, and 20 events are.
        (recorder, "batch_size", "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", str(STORE_BATCH)),
        (recorder, "flush_interval", "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL", str(FLUSH_INTERVAL)),
        (persister, "batch_size", "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE", str(STORE_BATCH)),
    )
    missing = {name: value for settings, field, name, value in defaults if field not in settings.model_fields_set}
    if missing:
        os.environ.update(missing)  # the server is another process
        _private.read_settings_again()


@dataclass
class _ServerOfProcess:
    """What this process knows of its server, and of what that is to show.

    One object for the whole process, because Prefect reads one API URL per process, and because a temporary server is
    started and ended by Prefect: no object of rayworks could hold this for it.
    """

    api_url: str | None = None
    """Of the embedded server, if one was started."""
    expected: dict[str, int] = field(default_factory=dict[str, int])
    """How many ended task runs of a flow run a server is to show, by the id of the flow run."""


_server_of_process = _ServerOfProcess()


def is_embedded(api_url: str | None) -> bool:
    """Return whether the API at ``api_url`` ends with this process: an embedded server or Prefect's temporary one."""
    from prefect.settings import PREFECT_API_URL

    return api_url is not None and (api_url == _server_of_process.api_url or not PREFECT_API_URL.value())


def expect(flow_run_id: str, task_runs: int) -> None:
    """Note how many ended task runs of a flow run the server is to show. An embedded server lives until it does.

    The server accepts their events into memory and stores them later, so its end would lose those that are not stored
    yet. A configured server lives on and stores them in its own time.
    """
    expected = _server_of_process.expected
    if not expected and is_embedded(configured_api_url()):
        # Handlers run in reverse order: this one runs before the server's end, which was registered earlier.
        atexit.register(_await_expected)
    expected[flow_run_id] = max(task_runs, expected.get(flow_run_id, 0))


def expected(flow_run_id: str) -> int:
    """Return how many ended task runs of a flow run the server is to show, as far as its runner has told."""
    return _server_of_process.expected.get(flow_run_id, 0)


def flush() -> None:
    """Send what this process has logged and emitted while the server still accepts it."""
    _private.drain_logs_and_events(FLUSH_SECONDS)


def _await_expected() -> None:
    import httpx
    from prefect.client.orchestration import get_client

    expected = _server_of_process.expected
    deadline = time.monotonic() + STORE_SECONDS
    final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
    with get_client(sync_client=True) as client:
        while expected:
            flow_run_id, count = expected.popitem()
            ended_runs = {"flow_runs": {"id": {"any_": [flow_run_id]}}, "task_runs": {"state": final}}
            try:
                while client.request("POST", "/task_runs/count", json=ended_runs).json() < count:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"it took more than {STORE_SECONDS} seconds")
                    time.sleep(0.1)
            except (httpx.HTTPError, TimeoutError) as error:
                sys.stderr.write(
                    f"Prefect's embedded server may not have stored all task runs of {flow_run_id}: {error}\n"
                )


@dataclass
class EmbeddedServer:
    """A Prefect server that ends with this process, or by :meth:`stop`."""

    process: "subprocess.Popen[bytes]"
    api_url: str

    def wait(self, timeout: float = START_SECONDS) -> None:
        """Return once the server responds.

        Args:
            timeout: In seconds.

        Raises:
            ClusterError: The server exited, or did not respond in time.
        """
        import httpx

        deadline = time.monotonic() + timeout
        # It is on this machine: a proxy that the environment names must not be asked for it.
        with httpx.Client(trust_env=False, verify=False, timeout=5) as client:
            while not _is_healthy(client, self.api_url):
                if (code := self.process.poll()) is not None:
                    raise ClusterError(
                        "Prefect's embedded server exited while it started",
                        where=self.api_url,
                        detail=f"exit code {code}",
                        remedy="See its message above. Check PREFECT_HOME, or set PREFECT_API_URL to a running server",
                    )
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"Prefect's embedded server did not respond within {timeout:.0f} seconds",
                        where=self.api_url,
                        remedy="Try again on a less busy machine, or set PREFECT_API_URL to a running server",
                    )
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server once it has stored what is expected, and wait until it has exited. Safe to call twice."""
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
    """Start an embedded server without waiting for it, and make it the API of this process and its children.

    Call it from the main thread, before anything else of Prefect is used.

    Returns:
        The server, or None when an API URL is configured (by the environment, a profile or ``prefect.toml``).
    """
    set_defaults()
    from prefect.settings import PREFECT_API_URL, get_current_settings

    if PREFECT_API_URL.value():
        return None
    os.environ["no_proxy"] = without_proxy(os.environ)
    port = free_port()
    environment = get_current_settings().to_environment_variables(exclude_unset=True)
    process = subprocess.Popen(
        _private.server_command(port),
        env={**os.environ, **environment, **_private.SERVER_ENVIRONMENT},
        # A session of its own: Ctrl-C in the terminal reaches the flow only, which still has states to report.
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    server = EmbeddedServer(process, f"http://127.0.0.1:{port}/api")
    atexit.register(server.stop)
    _server_of_process.api_url = server.api_url
    _private.use_api(server.api_url)
    return server


def without_proxy(environment: Mapping[str, str]) -> str:
    """Return the value of ``no_proxy`` with the addresses of this machine: no proxy reaches an embedded server.

    It is the lower-case name that httpx, websockets and requests prefer.
    """
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(dict.fromkeys([*filter(None, named.split(",")), "127.0.0.1", "localhost"]))


def _is_healthy(client: "httpx.Client", api_url: str) -> bool:
    import httpx

    try:
        return client.get(f"{api_url}/health").is_success
    except httpx.HTTPError:  # nothing listens yet, or another program took the port and does not speak HTTP
        return False
