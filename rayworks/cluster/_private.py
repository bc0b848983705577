"""What this room uses of Ray without a promise: private names, undocumented variables, message texts, REST paths.

Everything here was read in Ray 2.60. ``tests/seams/test_cluster_seams.py`` has a test for each of them.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Generator, Mapping
from typing import Any, cast

# Environment variables. Ray reads them in its own processes, or in the one that submits a task.

OOM_RETRIES = {"RAY_task_oom_retries": "3"}
"""How many more times Ray runs a task that ran out of memory: other tasks that used the memory may have ended.

Ray's default is to retry forever (ray-project/ray#31509), and a task that is too large would never fail. Ray reads the
variable in the process that submits the task (ray-project/ray#30013), so the driver and the workers both need it.
"""


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


def without_dashboard(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``init_kwargs`` with a dashboard port that no other Ray's dashboard has, if they ask for no dashboard.

    Even with ``include_dashboard=False``, Ray tells its workers that a dashboard listens on ``dashboard_port``, by
    default 8265. There the state API would reach the dashboard of another Ray on this machine (see
    :func:`cluster_address`).
    """
    if init_kwargs.get("include_dashboard") is False:
        return {"dashboard_port": 0, **init_kwargs}
    return dict(init_kwargs)


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

    popen = services.ConsolePopen
    services.__dict__["ConsolePopen"] = functools.partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.__dict__["ConsolePopen"] = popen


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
"""The beginning of its last line when the node is not part of the cluster after 30 s (``raylet_start_wait_time_s``)."""


# The dashboard's REST API. The functions of ``ray.util.state`` need a connection to Ray, and time out after minutes.

TASK_SUMMARY_PATH = "/api/v0/tasks/summarize"
NODES_PATH = "/api/v0/nodes"
LOGS_PATH = "/api/v0/logs"
LOG_FILE_PATH = "/api/v0/logs/file"
LOG_FILE_PREFIXES = ("worker-", "job-driver", "python-core-driver", "gcs_server", "raylet", "monitor", "autoscaler")
"""Names of the log files that explain a failure."""
