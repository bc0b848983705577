"""One connection of this process to Ray: a Ray of its own, or one that runs already. Knows nothing of Prefect."""

import concurrent.futures
import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from rayworks.cluster.kubernetes import diagnosis, raycluster_manifest
from rayworks.errors import ClusterError
from rayworks.free_port import free_port
from rayworks.settings import Settings

CLIENT_ATTEMPTS = 3
"""How often a ``ray://`` head is asked for a server of this client's own; each failure takes it half a minute."""
OOM_RETRIES = {"RAY_task_oom_retries": "3"}
"""How often Ray itself begins a task anew that ran out of memory: the others that took it may have ended. By default it
does so for ever, and a task that is too large would never fail. Read by the process that submits the task."""
CONNECT_SECONDS = 10
"""How long a running Ray may take to accept a connection."""


class Cluster(Protocol):
    """A place where Ray runs."""

    lost: "concurrent.futures.Future[ClusterError]"
    """Gets the reason when Ray ends before it is released; what waits for its work can stop waiting."""
    is_elsewhere: bool
    """Whether what only this machine has, such as local paths and loopback addresses, does not exist there."""
    may_grow: bool
    """Whether an autoscaler may bring nodes."""

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        """Connect this process to Ray, whose workers get ``environment``. Raises ClusterError when it cannot."""
        ...

    def release(self) -> None:
        """Disconnect, and end what this process started there."""
        ...

    def dashboard(self) -> str | None:
        """Where a person finds Ray's dashboard while this process is connected, if there is one."""
        ...

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        """Why Ray could not bring ``task`` to an end, where more is known than ``error`` says."""
        ...


class EmbeddedRay:
    """A Ray of this process's own, on this machine."""

    address = None
    is_elsewhere = False
    may_grow = False

    def __init__(self) -> None:
        self.lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        import ray

        host, port = init_kwargs.get("_node_ip_address") or cast(Any, ray.util).get_node_ip_address(), free_port()
        # The workers inherit the environment that Ray is started with. A token that lies on this machine is for
        # another cluster, and Ray would take it for its own.
        own = {
            "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
            "PYTHONPATH": _import_path(),
            "RAY_GCS_SERVER_PORT": str(port),
            **_own_ray(f"{host}:{port}"),
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each training; this node goes with all or not at all
            **OOM_RETRIES,
            **environment,
        }
        if init_kwargs.get("include_dashboard") is False:
            # Ray tells its workers of a dashboard all the same, by default where another Ray's may be; see _own_ray.
            init_kwargs = {"dashboard_port": 0, **init_kwargs}
        try:
            with _environment(own), _signals_kept(), _sessions_of_their_own():
                # "local": never another Ray that happens to run on this machine.
                cast(Any, ray.init)(**{"address": "local", "logging_level": "WARNING", **init_kwargs})
        except Exception as error:  # a node that is too slow is told by a plain Exception
            raise ClusterError(
                "Ray could not be started on this machine",
                detail=str(error),
                remedy="Check that memory and /tmp have room, that the machine has time, and that no firewall closes local ports",
            ) from error

    def release(self) -> None:
        import ray

        ray.shutdown()

    def dashboard(self) -> str | None:
        return _dashboard_url()

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        return diagnosis.out_of_memory(task, str(error), None, datetime.now(UTC))


class RunningRay:
    """A Ray that runs already: ``auto`` (this machine is a node of it), ``host:port``, or ``ray://host:port``."""

    is_elsewhere = False
    may_grow = True  # nobody here knows

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        runtime_env = dict(init_kwargs.get("runtime_env") or {})
        host_and_port = _host_and_port(self.address)
        own = _own_ray(self.address) if host_and_port and not self.address.startswith("ray://") else {}
        runtime_env["env_vars"] = {**OOM_RETRIES, **own, **environment, **runtime_env.get("env_vars", {})}
        try:
            if host_and_port:  # Ray would try for minutes when nobody listens
                socket.create_connection(host_and_port, timeout=CONNECT_SECONDS).close()
            with _environment(OOM_RETRIES), _signals_kept():
                self._init(
                    {"logging_level": "WARNING", **init_kwargs, "address": self.address, "runtime_env": runtime_env}
                )
        except Exception as error:  # the client raises plain Exceptions of its server as well
            raise ClusterError(
                "Ray cannot be reached",
                where=self.address,
                detail=str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__,
                remedy="Check that it runs, the address, that its Ray has the same version, and RAY_AUTH_MODE if it wants a token",
            ) from error

    @staticmethod
    def _init(arguments: dict[str, Any]) -> None:
        import ray

        for attempt in range(CLIENT_ATTEMPTS):
            try:
                cast(Any, ray.init)(**arguments)
                return
            except ConnectionAbortedError:
                # The proxy behind ray:// starts a process for each client by a fork beside gRPC's threads, which
                # sometimes dies before it has begun: ray_client_server.err tells, its own log is empty.
                if attempt + 1 == CLIENT_ATTEMPTS:
                    raise

    def release(self) -> None:
        import ray

        ray.shutdown()  # ends the job: its tasks, actors and workers go, the Ray stays

    def dashboard(self) -> str | None:
        return _dashboard_url()

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        return diagnosis.out_of_memory(task, str(error), None, datetime.now(UTC))


def _own_ray(address: str) -> dict[str, str]:
    """What tells workers which Ray is theirs.

    Without it, Ray's state API asks the one that this machine started last. Ray Train asks it every second whether its
    controller lives: another Ray says no, and the training loses its resources; one that is gone costs 12 s.
    """
    return {"RAY_ADDRESS": address}


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Where ``host:port`` or ``ray://host:port`` is; None for ``auto``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def cluster_of(settings: Settings) -> Cluster:
    """The cluster that ``RAYWORKS_RAY_ADDRESS`` names: none is a Ray of this process's own."""
    if not settings.ray_address:
        return EmbeddedRay()
    if not raycluster_manifest.is_manifest(settings.ray_address):
        return RunningRay(settings.ray_address)
    from rayworks.cluster.kubernetes.raycluster import KubeRayCluster

    return KubeRayCluster(settings)


def _dashboard_url() -> str | None:
    """Where the dashboard of the Ray that this process is connected to listens, if it has one."""
    from ray._private.services import get_webui_url_from_internal_kv
    from ray.util.client import ray as client

    address = cast(Any, client)._get_dashboard_url() if client.is_connected() else get_webui_url_from_internal_kv()
    return f"http://{address}" if address and "://" not in address else address


def prepare() -> None:
    """Set what Ray reads when it is imported: workers start without ``uv run``, and no usage statistics are sent."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a lost ray:// must not turn into a Ray of this machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None and os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0":
        constants.__dict__["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = False  # imported before us, so it took its default


def _import_path() -> str:
    """Where this process finds modules, beyond its Python's own places: Ray tells its workers of the script's folder only."""
    own = (sys.prefix, sys.base_prefix)
    added = [folder for folder in sys.path[1:] if os.path.isdir(folder) and not folder.startswith(own)]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(folder for folder in [*inherited, *added] if folder))


@contextlib.contextmanager
def _signals_kept() -> Generator[None]:
    """Keep who handles SIGTERM: Ray takes it for itself, and then a cancelled flow run would end as a crashed one."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _sessions_of_their_own() -> Generator[None]:
    """Start Ray's processes out of reach of a signal to this process's group.

    ``prefect flow-run execute`` ends a cancelled run by one, and Ray would be gone before this process has told what
    became of its tasks.
    """
    if sys.platform != "linux":  # elsewhere Ray finds what a killed driver leaves by the group
        yield
        return
    from ray._private import services

    popen = services.ConsolePopen
    services.__dict__["ConsolePopen"] = functools.partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.__dict__["ConsolePopen"] = popen


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Generator[None]:
    """``os.environ`` with ``values``, for what is started within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
