"""What this room uses of Ray without a promise: private names, undocumented variables, message texts, REST paths.

Everything here was read in Ray 2.60. In ``tests/seams``, ``test_cluster_seams.py`` and ``test_node_seams.py`` test it.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from types import ModuleType
from typing import Any, cast

# Environment variables. Ray reads them in its own processes, or in the one that submits a task.

OOM_RETRIES = {"RAY_task_oom_retries": "3"}
"""How many more times Ray runs a task that ran out of memory: other tasks that used the memory may have ended.

Ray's default is to retry forever (ray-project/ray#31509), and a task that is too large would never fail. Ray reads the
variable in the process that submits the task (ray-project/ray#30013), so the driver and the workers both need it.
"""


CONNECT_TO_RAYLET = {
    "RAY_raylet_client_connect_timeout_milliseconds": "100",
    "RAY_raylet_client_num_connect_attempts": "100",
}
"""A raylet, and each of its workers, tries a hundred times in ten seconds to connect, by default ten times.

The first to connect is the raylet itself, to its object store, which starts in another thread: where that takes more
than a moment, as in a pod, a node would start a second later.
"""
IDLE_WORKERS = {"RAY_num_workers_soft_limit": "2"}
"""How many workers without a task a node keeps. By default as many as it has CPUs; others may end after a second."""


def gcs_port(port: int) -> dict[str, str]:
    """Return the variable that makes the GCS of an embedded Ray listen on ``port``.

    ``ray.init`` has no argument for it. The workers inherit the environment that Ray starts with, and
    :func:`cluster_address` belongs in there, so the address must be known before Ray starts.
    """
    return {"RAY_GCS_SERVER_PORT": str(port)}


def cluster_address(address: str) -> dict[str, str]:
    """Return the variable that tells workers which Ray cluster they belong to.

    ``ray.util.state`` in a worker does not query the worker's own cluster: without ``RAY_ADDRESS`` it queries the one
    that was last started on the machine (``/tmp/ray/ray_current_cluster``). Ray Train uses it every second to check
    that its controller is alive. If another cluster says no, the training loses its resources; one that has ended
    costs 12 s.
    """
    return {"RAY_ADDRESS": address}


def no_preemption_watcher() -> dict[str, str]:
    """Return the variable that switches off Ray Train's preemption watcher, an extra process for each training.

    It has no use where the only node is this machine.
    """
    return {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def set_import_defaults() -> None:
    """Set the variables that Ray reads once, when it is imported. Variables that are already set stay.

    - ``RAY_ENABLE_UV_RUN_RUNTIME_ENV=0``: by default, a driver that runs under ``uv run`` starts each worker through
      ``uv run`` as well, which takes seconds. If Ray is already imported, the constant made from it is set.
    - ``RAY_ENABLE_AUTO_CONNECT=0``: by default, a call to Ray that is not connected starts a local Ray. A lost ``ray://``
      connection must raise an error instead.
    - ``RAY_USAGE_STATS_ENABLED=0`` (documented): send no usage statistics.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None and os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0":
        constants.__dict__["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = False


# Starting Ray


def node_ip(init_kwargs: Mapping[str, Any]) -> str:
    """Return the IP address that ``ray.init(**init_kwargs)`` gives to an embedded Ray."""
    import ray

    return init_kwargs.get("_node_ip_address") or cast(Any, ray.util).get_node_ip_address()


@contextlib.contextmanager
def sigterm_handler_kept() -> Generator[None]:
    """Restore this process's SIGTERM handler after the block, in which ``ray.init`` replaces it.

    With Ray's handler, a cancelled flow run would end as a crashed one. See ray-project/ray#46997.
    """
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def processes_in_own_sessions() -> Generator[None]:
    """Start each Ray process in its own session within the block, out of reach of signals to this process group.

    ``prefect flow-run execute`` signals the process group to end a cancelled run. Ray would end before this process has
    reported the states of its tasks. ``ray.init`` has no option for it, so ``services.ConsolePopen`` is replaced.

    Only on Linux: elsewhere Ray uses the process group to find the processes that a killed driver leaves behind.
    """
    if sys.platform != "linux":
        yield
        return
    from ray._private import services

    with replaced(services, ConsolePopen=functools.partial(services.ConsolePopen, start_new_session=True)):
        yield


@contextlib.contextmanager
def dashboard_not_awaited() -> Generator[None]:
    """Let Ray start a head's node beside its dashboard within the block, not when the dashboard listens.

    Both import for seconds. :func:`dashboard_address` waits for it.

    With ``include_dashboard=False``, Ray starts and awaits one all the same, for usage statistics, which
    :func:`set_import_defaults` and the image switch off. Here it starts none.
    """
    from ray._private import services
    from ray.experimental import internal_kv

    start_api_server = services.start_api_server

    def start_dashboard(include_dashboard: bool | None, *args: Any, **kwargs: Any) -> Any:
        if include_dashboard is False:
            return "", None
        with replaced(internal_kv, _internal_kv_get=lambda *_, **__: b""):  # by which it waits for the address
            return start_api_server(include_dashboard, *args, **kwargs)

    with replaced(services, start_api_server=start_dashboard):
        yield


@contextlib.contextmanager
def only_used_processes(init_kwargs: Mapping[str, Any]) -> Generator[None]:
    """Let ``ray.init`` start an embedded Ray within the block without what nobody uses, and wait for no dashboard.

    - :func:`dashboard_not_awaited`. Without a dashboard, the node's dashboard agent is the one that Ray has where only
      ``ray`` is installed, not ``ray[default]``.
    - With ``log_to_driver=False``, nobody reads what the log monitor publishes.
    - The node's dashboard agent takes a free port. Ray's is the same for all nodes: the agent of a second embedded Ray
      tries for three seconds to listen there, which its node waits for, and then shows no logs.
    - Ray imports what a dashboard needs to see whether it is installed; it is, since ``ray[default]`` is required.
    """
    from ray._private import parameter, utils, worker

    has_dashboard = init_kwargs.get("include_dashboard") is not False
    missing = None if has_dashboard else ImportError("no dashboard")
    parameters = functools.partial(
        parameter.RayParams,
        include_log_monitor=init_kwargs.get("log_to_driver", True),
        dashboard_agent_listen_port=0,
    )
    with (
        dashboard_not_awaited(),
        replaced(utils, get_dashboard_dependency_error=lambda: missing),
        replaced(parameter, RayParams=parameters),
    ):
        yield
    if not has_dashboard:
        store_that_no_dashboard_runs(cast(Any, worker)._global_node)


AGENT_SECONDS = 15.0
"""How long a raylet waits for two processes that import for seconds, before it ends: Ray 2.60 has no setting for that
(``WaitForPersistedPort``)."""


@contextlib.contextmanager
def time_to_start(seconds: float) -> Generator[None]:
    """Give a node that this process starts that many seconds to start within the block, as long as its raylet runs.

    Ray itself gives it 30, too few on a busy machine, and waits for all of them when the raylet has ended. It also asks
    only once a second whether the node has started (``GlobalStateAccessor::GetNode``).

    Raises:
        TimeoutError: The node was too slow. Another one may start.
        ChildProcessError: Its raylet ended as it started.
    """
    from ray._private import services

    start_raylet, get_node = services.start_raylet, services.get_node
    raylets: list[tuple[Any, float, str]] = []

    def start(*args: Any, **kwargs: Any) -> Any:
        raylet = start_raylet(*args, **kwargs)
        raylets.append((raylet.process, time.monotonic(), kwargs["raylet_stderr_filepath"]))
        return raylet

    def node(gcs_address: str, node_id: str) -> Any:
        raylet, started, log = raylets[-1]
        is_alive = _is_alive(gcs_address, node_id)
        while not is_alive():
            has_ended, age = raylet.poll() is not None, time.monotonic() - started
            if has_ended and age < AGENT_SECONDS:
                raise ChildProcessError(f"the raylet ended as it started, see {log}")
            if has_ended or age > seconds:
                raise TimeoutError(f"{NODE_TOO_SLOW}: it has not started after {age:.0f} s")
            time.sleep(0.05)
        return get_node(gcs_address, node_id)

    with replaced(services, start_raylet=start, get_node=node):
        yield


def _is_alive(gcs_address: str, node_id: str) -> Callable[[], bool]:
    """Return a function that asks the GCS whether a node has started and not ended."""
    from ray import NodeID, _raylet

    gcs = cast(Any, _raylet).GcsClient(address=gcs_address)
    return lambda: gcs.check_alive([NodeID.from_hex(node_id)], timeout=10)[0]


@contextlib.contextmanager
def replaced(owner: ModuleType | type, **attributes: Any) -> Generator[None]:
    """Replace attributes of a module or class within the block."""
    previous = {name: vars(owner)[name] for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in previous.items():
            setattr(owner, name, value)


def dashboard_address(node: Any = None, seconds: float | None = None) -> str | None:
    """Wait for the dashboard of a head's node, and return its address; None if there is none.

    It is stored for other drivers as well, as Ray would have done before it started the node.

    Args:
        node: The node, of ``ray._private.node``. By default that of the Ray that this process has started.
        seconds: How long to wait. By default as long as Ray does.

    Raises:
        TimeoutError: It does not listen in time, or has ended.
    """
    from ray._private import ray_constants, worker

    node = node or cast(Any, worker)._global_node
    gcs, namespace = node.get_gcs_client(), ray_constants.KV_NAMESPACE_DASHBOARD
    deadline = time.monotonic() + (seconds or ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S)
    for dashboard in node.all_processes.get(ray_constants.PROCESS_TYPE_DASHBOARD, []):
        while not (address := gcs.internal_kv_get(ray_constants.DASHBOARD_ADDRESS.encode(), namespace)):
            if dashboard.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"it does not listen, see {node.get_logs_dir_path()}/dashboard.log")
            time.sleep(0.1)
        gcs.internal_kv_put(b"webui:url", address, True, namespace)
        return address.decode()
    return None


def store_that_no_dashboard_runs(node: Any) -> None:
    """Tell the processes of a head's Ray so.

    The state API would look for its address for seconds, or reach the dashboard of another Ray at port 8265.
    """
    from ray._private import ray_constants

    name, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    node.get_gcs_client().internal_kv_put(name, b"127.0.0.1:0", True, namespace)


# Token authentication

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
"""The variable in which Ray looks for a token first. It is documented."""


def resolved(address: str) -> str:
    """Return ``host:port`` or ``ray://host:port``, for ``auto`` that of the Ray on this machine, as ``ray.init`` does.

    Raises:
        ConnectionError: ``auto``, and no Ray runs on this machine.
    """
    from ray._private import services

    if address.startswith("ray://"):
        return address
    return cast(Any, services).canonicalize_bootstrap_address_or_die(address)


def accepts_this_process(address: str, timeout: float) -> bool:
    """Return whether the Ray at ``address`` accepts the token of this process, or its lack of one.

    ``ray.init`` would try for 20 to 30 s, log a line each second, and then not say what was wrong. Relies on the gRPC
    services of the GCS and of the Ray Client server, whose servers check the token before they handle a request.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``.
        timeout: In seconds.

    Raises:
        ConnectionError: ``auto``, and no Ray runs on this machine.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc, ray_client_pb2, ray_client_pb2_grpc
    from ray.exceptions import AuthenticationError

    generated: Any = (gcs_service_pb2, gcs_service_pb2_grpc, ray_client_pb2, ray_client_pb2_grpc)
    gcs, gcs_stubs, client, client_stubs = generated
    address = resolved(address)
    try:
        with cast(Any, init_grpc_channel)(address.removeprefix("ray://")) as channel:
            if address.startswith("ray://"):
                ping = client.ClusterInfoRequest(type=client.ClusterInfoType.PING)
                client_stubs.RayletDriverStub(channel).ClusterInfo(ping, timeout=timeout)
            else:
                request = gcs.GetClusterIdRequest()
                gcs_stubs.NodeInfoGcsServiceStub(channel).GetClusterId(request, timeout=timeout)
    except AuthenticationError:  # RAY_AUTH_MODE is token, and there is none
        return False
    except grpc.RpcError as error:  # any other one is for ray.init to tell
        return cast(Any, error).code() is not grpc.StatusCode.UNAUTHENTICATED
    return True


def has_token() -> bool:
    """Return whether a token lies on this machine, where Ray looks for it: two variables and a file."""
    from ray import _raylet

    return cast(Any, _raylet).AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)


def send_token() -> None:
    """Let this process and its children send the token of this machine, though Ray has read ``RAY_AUTH_MODE`` already.

    ``ray.init`` does it by itself for ``auto`` only, and logs a warning about it.
    """
    from ray._private.authentication import authentication_token_setup

    cast(Any, authentication_token_setup)._enable_token_auth()


def use_token(token: str | None) -> None:
    """Let this process and its children send a token, or none again. Ray caches what it has read of both variables."""
    from ray import _raylet

    if token is None:
        for name in (TOKEN_VARIABLE, "RAY_AUTH_MODE"):
            os.environ.pop(name, None)
        cast(Any, _raylet).Config.initialize("")
    else:
        os.environ[TOKEN_VARIABLE] = token
        send_token()
    cast(Any, _raylet).AuthenticationTokenLoader.instance().reset_cache()


def sent_token() -> str | None:
    """Return the token of :data:`TOKEN_VARIABLE` if this process sends it; None if it sends none, or that of a file."""
    return os.environ.get(TOKEN_VARIABLE) if os.environ.get("RAY_AUTH_MODE") == "token" else None


def is_worker() -> bool:
    """Return whether this process is a Ray worker. ``get_runtime_context()`` offers no such question.

    prefect_ray reads ``worker.mode`` for the same purpose.
    """
    import ray

    api = cast(Any, ray)
    return api.get_runtime_context().worker.mode == api.WORKER_MODE


# Message texts

NODE_STARTED = "Ray runtime started"
"""What ``ray start`` prints when its node is part of the cluster."""
NODE_TOO_SLOW = "The current node timed out during startup"
"""The beginning of its last line when the node is not part of the cluster in time."""


# The dashboard's REST API. The functions of ``ray.util.state`` need a connection to Ray, and time out after minutes.

TASK_SUMMARY_PATH = "/api/v0/tasks/summarize"
NODES_PATH = "/api/v0/nodes"
LOGS_PATH = "/api/v0/logs"
LOG_FILE_PATH = "/api/v0/logs/file"
LOG_FILE_PREFIXES = ("worker-", "job-driver", "python-core-driver", "gcs_server", "raylet", "monitor", "autoscaler")
"""Names of the log files that explain a failure."""
