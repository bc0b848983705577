"""This process's connection to Ray: opened by a flow for itself, or by ``ray_running`` for several flows."""

import concurrent.futures
import contextlib
import functools
import importlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

from rayworks import capacity
from rayworks.cluster import places, preflight
from rayworks.cluster.contract import Cluster
from rayworks.errors import ClusterError
from rayworks.prefect_api.address import configured_api_url, worker_environment
from rayworks.settings import Settings


class RaySession:
    """This process's connection to Ray.

    Args:
        cluster: The cluster that this process has acquired. None where Ray was connected by other means, as in a Ray
            worker or after the program's own ``ray.init``: its end is not noticed, and it explains no failure.
        warm_up: References to the Ray tasks that import Prefect in workers before the first task runs need it, by the
            ids of their nodes.
    """

    def __init__(self, cluster: Cluster | None = None, warm_up: Mapping[str, Any] | None = None) -> None:
        self._cluster = cluster
        self._warm_up = warm_up
        self.lost: concurrent.futures.Future[ClusterError] = cluster.lost if cluster else concurrent.futures.Future()
        """Gets the reason when Ray ends before the session does."""
        self._calls: dict[object, Callable[[], None]] = {}
        self.lost.add_done_callback(lambda _: [self._call(key) for key in list(self._calls)])

    @property
    def is_elsewhere(self) -> bool:
        """Whether Ray runs where this machine's local paths and loopback addresses do not exist."""
        return self._cluster is not None and self._cluster.is_elsewhere

    @functools.cached_property
    def is_in_worker(self) -> bool:
        """Whether this process is a Ray worker, whose flow run has a session of its own. Ray must be connected."""
        return self._cluster is None and places.is_worker()

    @functools.cached_property
    def nodes_to_come(self) -> capacity.Nodes | None:
        """What each kind of node has that may be added to Ray; None if that is not known."""
        return self._cluster.nodes_to_come() if self._cluster else capacity.nodes_to_come()

    def why_none_comes(self, requests: Mapping[str, float]) -> str:
        """Return why no node is added that has what a task requests; empty if that is not known."""
        return self._cluster.why_none_comes(requests) if self._cluster else ""

    def dashboard(self) -> str | None:
        """Return the URL of the Ray dashboard, or how to reach it; None if there is none or it is not known."""
        return self._cluster.dashboard() if self._cluster else None

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        """Return why Ray could not finish the task of that name, if the cluster knows more than the error."""
        return self._cluster.explain(task, error) if self._cluster else None

    def start_preflight(self) -> preflight.Preflight | None:
        """Start to check that the nodes fit this process; None in a Ray worker, whose flow run has checked them."""
        if self.is_in_worker:
            return None
        if self.is_elsewhere:
            return preflight.Preflight(None, None, self._warm_up)
        return preflight.Preflight(configured_api_url(), Settings().storage_uri, self._warm_up)

    def call_after(self, ended: "concurrent.futures.Future[Any]", call: Callable[[], None]) -> None:
        """Call ``call`` once, when ``ended`` is done or Ray is lost, in a thread that is none of Ray's own."""
        key = object()
        self._calls[key] = call  # not a callback of ``lost`` itself, which would keep what it needs until the end
        ended.add_done_callback(lambda _: self._call(key))
        if self.lost.done():
            self._call(key)

    def _call(self, key: object) -> None:
        if call := self._calls.pop(key, None):
            self._threads.submit(call)

    @functools.cached_property
    def _threads(self) -> concurrent.futures.Executor:
        return concurrent.futures.ThreadPoolExecutor(thread_name_prefix="rayworks-callbacks")


class _SessionOfProcess:
    """Holds the session of the :func:`ray_running` block that this process is in.

    A session is passed wherever one is used. Only the start of a task runner has to find it: Prefect starts the runner
    of a flow, and hands it nothing. Ray has one connection per process, so there is one holder per process. A
    ``ContextVar`` would not do: a flow that the program runs in another thread uses the same connection, but does not
    see the context.
    """

    def __init__(self) -> None:
        self.current: RaySession | None = None

    @contextlib.contextmanager
    def hold(self, session: RaySession) -> Generator[RaySession]:
        outer, self.current = self.current, session
        try:
            yield session
        finally:
            self.current = outer


_session_of_process = _SessionOfProcess()


@contextlib.contextmanager
def ray_running(address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> Generator[RaySession]:
    """Connect this process to Ray for all flows that run within the block, and leave nothing of it behind.

    A flow starts and ends Ray by itself. A program opens this block around flows that are to share one Ray, or to let
    Ray start while Prefect does. The block changes nothing within another one, or where Ray is connected already.

    Args:
        address: As for :class:`RayTaskRunner`.
        init_kwargs: More arguments for ``ray.init``.

    Yields:
        The session, for the URL of the dashboard.

    Raises:
        ClusterError: Ray cannot be started or reached.
    """
    places.prepare()
    import ray

    if ray.is_initialized():
        with _session_of_process.hold(_session_of_process.current or RaySession()) as session:
            yield session
        return
    settings = Settings()
    if address:
        settings = settings.model_copy(update={"ray_address": address})
    cluster = places.cluster_of(settings)
    growth = capacity.growth_variable(cluster.nodes_to_come())
    cluster.acquire(worker_environment() | growth, init_kwargs or {})
    try:
        with _session_of_process.hold(RaySession(cluster, _start_warm_up())) as session:
            yield session
    finally:
        cluster.release()


def _start_warm_up() -> dict[str, Any]:
    """Let a worker on each node that gets task runs import Prefect while this process goes on.

    These are the nodes that have CPUs, and this process's own, where Ray prefers to run what requests none.

    Returns:
        References to the ends of it, by the ids of the nodes.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()
    return {
        node_id: preflight.start_on(node_id, _import_prefect)
        for node_id, node in capacity.alive_nodes().items()
        if node_id == own or node["Resources"].get("CPU")
    }


def _import_prefect() -> None:
    importlib.import_module("prefect.task_engine")
    importlib.import_module("prefect_ray")
