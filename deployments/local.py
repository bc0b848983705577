"""A laptop's whole installation: ``uv run deployments/local.py``.

Starts a Prefect server, an MLflow server and a Prefect worker on this machine, and registers every deployment of
``prefect.yaml``. Ctrl-C ends all of it, its runs included. A Prefect server that ``PREFECT_API_URL`` names, and an
MLflow server that ``RAYWORKS_MLFLOW_TRACKING_URI`` names, are used instead. Everything listens on this machine alone.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import httpx

from rayworks import storage
from rayworks.cluster import preflight
from rayworks.errors import ClusterError, RayworksError
from rayworks.prefect_api import address, lost_runs, registration, server
from rayworks.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
POOL = "local"
START_SECONDS = 180
"""How long a server may take to start."""
RUN_END_SECONDS = 60
"""How long runs may take to end: they report their states, and end Ray."""
SERVER_END_SECONDS = 10
POLL_SECONDS = 2
WORKER_SECONDS = 10
"""A worker that ends sooner would end again."""

FLOW_RUN_ID = b"PREFECT__FLOW_RUN_ID="
"""The variable by which a worker tells a process which flow run to execute."""

SERVER_DEFAULTS = {
    # Longer than the ledger of a watch needs them. Flow runs are kept: their vacuum is off by default.
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P30D",
    # A restart of the server would otherwise end runs whose deployment has a concurrency limit.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # How long a run waits before it asks again for the end of the one before; the default is 30.
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    # How long a run stays in Cancelling whose process ended by itself while it was cancelled; the default is 300.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "120",
    # How far ahead runs are scheduled, and so how many looks are late in the morning; the default is an hour.
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT5M",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The queue for MLflow's GenAI jobs, which nothing here uses: seven processes, 1.2 GB of memory.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""What the environment does not set."""


class Installation:
    """The processes of the installation. All are children of this process, and so are their orphans."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        log_folder.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Start a process of the installation: a module of Python and its arguments."""
        with self._log(name).open("ab" if name in self._processes else "wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in their order
            )

    def wait_for(self, name: str, health_url: str) -> None:
        """Return once a server responds.

        Raises:
            ClusterError: It ended, or did not respond in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while preflight.http_problem(health_url):
            if self._processes[name].poll() is not None:
                raise self.ended(name)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{name} did not respond within {START_SECONDS} seconds",
                    where=health_url,
                    remedy=f"Read its log, {self._log(name)}",
                )
            time.sleep(0.1)

    def wait_until(self, done: Callable[[], object], *, ended: str = "") -> None:
        """Return once a condition is true, which it may become when a process has ended.

        Args:
            done: The condition.
            ended: The process that may end; empty: none may.

        Raises:
            ClusterError: Another process has ended.
        """
        while not done():
            for name, process in self._processes.items():
                if name != ended and process.poll() is not None:
                    raise self.ended(name)
            for orphan in self._orphans():
                is_running(orphan)  # one that has ended is a zombie until then
            time.sleep(POLL_SECONDS)

    def has_ended(self, name: str) -> bool:
        """Return whether a process has ended."""
        return self._processes[name].poll() is not None

    def kill_orphans(self) -> None:
        """Kill what a process that has ended has left, which are runs."""
        kill(self._orphans)

    def end(self) -> None:
        """End the runs, then the servers, since the runs report to them."""
        if worker := self._processes.get("worker"):
            worker.send_signal(signal.SIGSTOP)  # it starts no other run, and kills none before it has reported its end
            runs = children(worker.pid)
            for run in runs:
                with suppress(ProcessLookupError):
                    os.kill(run, signal.SIGTERM)
            deadline = time.monotonic() + RUN_END_SECONDS
            while any(map(is_running, runs)) and time.monotonic() < deadline:
                time.sleep(0.1)
            worker.kill()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(SERVER_END_SECONDS)
        kill(own_children)

    def ended(self, name: str) -> ClusterError:
        """Return the error for a process that has ended."""
        log = self._log(name)
        lines = log.read_text(errors="replace").strip().splitlines()
        return ClusterError(
            f"{name} has ended, and with it the installation",
            where=f"exit code {self._processes[name].returncode}",
            detail=lines[-1] if lines else "",
            remedy=f"Read its log, {log}, and start again",
        )

    def _log(self, name: str) -> Path:
        return self._log_folder / f"{name}.log"

    def _orphans(self) -> list[int]:
        known = {process.pid for process in self._processes.values()}
        return [child for child in own_children() if child not in known]


def children(pid: int) -> list[int]:
    """Return the IDs of the processes that a process has started and that have not ended."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += map(int, thread.read_text().split())
    return found


def is_running(pid: int) -> bool:
    """Return whether a descendant of this process runs."""
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    with suppress(OSError):  # a child of another process, which may not have noticed its end: Z is a zombie
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def own_children() -> list[int]:
    """Return the IDs of the processes that this process has started or adopted."""
    return children(os.getpid())


def kill(processes: Callable[[], list[int]]) -> None:
    """Kill children of this process until there are none: the children of one that is killed become its children."""
    while left := processes():
        for child in left:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in left:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def flow_runs_with_a_process() -> set[str]:
    """Return the IDs of the flow runs that processes of this machine execute."""
    found: set[str] = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            variables = environment.read_bytes().split(b"\0")
            found |= {line.partition(b"=")[2].decode() for line in variables if line.startswith(FLOW_RUN_ID)}
    return found


def adopt_orphans() -> None:
    """Make processes whose parent ends children of this process (prctl 36 is PR_SET_CHILD_SUBREAPER)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)


def end_on_signals() -> None:
    """Let the first signal end the installation in its order, and the second one at once."""
    received: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt
        kill(own_children)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)


def check_port(port: int, remedy: str) -> None:
    """Check that nothing listens on a port of this machine.

    Raises:
        ClusterError: A program does.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise ClusterError("the port is in use", where=f"{HOST}:{port}", detail=str(error), remedy=remedy) from error


def start_prefect(installation: Installation) -> None:
    """Start a Prefect server, unless the one of ``PREFECT_API_URL`` responds, and make it the API of this process.

    Raises:
        ClusterError: Another server is configured and does not respond, the port is in use, or the server ended.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    configured, port = settings.api.url, settings.server.api.port
    own = f"http://{HOST}:{port}/api"
    if configured and not preflight.api_problem(configured):
        return
    if configured and configured != own:
        remedy = "Start that server, or unset PREFECT_API_URL and start one here"
        raise ClusterError("the Prefect server does not respond", where=configured, remedy=remedy)
    check_port(port, "Set PREFECT_API_URL to use the server that listens there, or PREFECT_SERVER_API_PORT")
    ui = {"PREFECT_API_URL": own, "PREFECT_SERVER_UI_API_URL": own}
    listen = ("--host", HOST, "--port", str(port))
    installation.start("prefect-server", "rayworks.prefect_api.lasting_server", "start", *listen, **ui)
    installation.wait_for("prefect-server", f"{own}/health")
    address.use(own)


def start_mlflow(installation: Installation, settings: Settings, storage_uri: str) -> dict[str, str]:
    """Start an MLflow server on what runs record, unless they have one, and return the settings of runs for it.

    Raises:
        ClusterError: The port is in use, or the server ended.
        ParameterError: The storage cannot hold MLflow's records.
    """
    records = settings.tracking_uri()
    if records.startswith("http"):
        return {}
    port = int(os.environ.get("MLFLOW_PORT", "5000"))
    check_port(port, "Stop what listens there, or set MLFLOW_PORT to another port")
    artifacts = storage.join(storage_uri, "mlflow")
    listen = ("--host", HOST, "--port", str(port), "--workers", "1")
    kept = ("--backend-store-uri", records, "--artifacts-destination", artifacts)
    installation.start("mlflow", "mlflow", "server", *listen, *kept)
    return {"RAYWORKS_MLFLOW_UI_URL": f"http://{HOST}:{port}"}


def start(installation: Installation) -> dict[str, str]:
    """Start the servers that are missing, register the deployments, and return the settings of runs."""
    from prefect.workers.process import ProcessWorker

    settings = Settings()
    storage_uri = storage.absolute(settings.storage_uri)
    mlflow = start_mlflow(installation, settings, storage_uri)
    start_prefect(installation)
    if mlflow:  # before a run may make the same database
        installation.wait_for("mlflow", f"{mlflow['RAYWORKS_MLFLOW_UI_URL']}/health")
    template = ProcessWorker.get_default_base_job_template()
    registration.register(ROOT, POOL, "process", template, overwrite=False)
    return {**mlflow, "RAYWORKS_STORAGE_URI": storage_uri}


def start_worker(installation: Installation, runs: dict[str, str]) -> None:
    """Report the runs as crashed that no process works on, and start a worker."""
    lost_runs.report_crashed_runs_of_pool(POOL, worker_name())
    work = ("--pool", POOL, "--type", "process", "--name", worker_name())
    installation.start("worker", "prefect", "worker", "start", *work, **runs)


def worker_name() -> str:
    """Return the name of this machine's worker."""
    return f"local-{socket.gethostname()}"


def say_where(runs: dict[str, str]) -> None:
    """Say where the servers and the storage are."""
    from prefect.settings import get_current_settings

    say(f"Prefect, to start runs: {get_current_settings().ui_url}")
    if url := runs.get("RAYWORKS_MLFLOW_UI_URL"):
        say(f"MLflow, for models: {url}")
    say(f"Storage: {runs['RAYWORKS_STORAGE_URI']}. Ctrl-C ends the runs and the servers.")


def keep_worker(installation: Installation, runs: dict[str, str]) -> NoReturn:
    """Let the installation go on when the Prefect server was away.

    Runs that ended meanwhile could not report it. The worker ends when it is away for minutes, and another one starts.

    Raises:
        ClusterError: A server of the installation has ended, or a worker soon after its start.
    """
    from prefect.settings import get_current_settings

    api_url, started = get_current_settings().api.url, time.monotonic()

    def worker_has_ended() -> bool:
        return installation.has_ended("worker")

    away_since: datetime | None = None
    while True:
        if away_since is None:
            installation.wait_until(lambda: worker_has_ended() or preflight.api_problem(api_url), ended="worker")
            away_since = datetime.now(UTC)
            if worker_has_ended() and time.monotonic() - started < WORKER_SECONDS:
                raise installation.ended("worker")
            say("The worker has ended." if worker_has_ended() else "The Prefect server does not respond.")
        installation.wait_until(lambda: not preflight.api_problem(api_url), ended="worker")
        try:
            if worker_has_ended():
                installation.kill_orphans()  # nobody would cancel these runs
                start_worker(installation, runs)
                started = time.monotonic()
                say("Another worker has started. The runs of the one that ended are shown as Crashed.")
            else:
                if sys.platform == "linux":  # elsewhere it is not known which runs have a process
                    alive = flow_runs_with_a_process()
                    lost_runs.report_crashed_runs_of_pool(POOL, worker_name(), alive, away_since)
                say("The Prefect server responds again.")
            away_since = None
        except httpx.HTTPError:  # it is away again
            time.sleep(POLL_SECONDS)


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the installation until it is ended."""
    os.environ.update({name: value for name, value in SERVER_DEFAULTS.items() if name not in os.environ})
    os.environ["no_proxy"] = server.without_proxy(os.environ)
    from prefect.settings import get_current_settings

    adopt_orphans()
    end_on_signals()
    installation = Installation(get_current_settings().home / "rayworks")
    code = 0
    try:
        runs = start(installation)
        start_worker(installation, runs)
        say_where(runs)
        keep_worker(installation, runs)
    except KeyboardInterrupt:
        pass
    except RayworksError as error:
        sys.stderr.write(f"{error}\n")
        code = 1
    finally:
        try:
            say("Ending the runs and the servers. Ctrl-C kills them at once.")
            installation.end()
        except KeyboardInterrupt:  # the first signal, where it ends because of an error
            kill(own_children)
    sys.exit(code)


if __name__ == "__main__":
    main()
