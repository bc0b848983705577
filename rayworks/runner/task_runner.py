"""The task runner of every flow: Prefect's states, logs and retries, with the work on Ray.

The only module that knows prefect_ray. Library code that runs in a task logs by ``logging.getLogger(__name__)``.
"""

import concurrent.futures
import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from uuid import UUID, uuid4

from prefect.context import (
    AssetContext,
    FlowRunContext,
    SettingsContext,
    TagsContext,
    TaskRunContext,
    serialize_context,
)
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner
from prefect.utilities.engine import collect_task_run_inputs_sync, link_state_to_task_run_result
from prefect_ray import RayTaskRunner as PrefectRayTaskRunner
from prefect_ray.context import RemoteOptionsContext
from prefect_ray.task_runners import PrefectRayFuture

from rayworks import capacity, storage
from rayworks.cluster import places, preflight
from rayworks.errors import ClusterError, ClusterLostError, RayworksError, TransferError
from rayworks.prefect_api import server
from rayworks.runner import unpicklable
from rayworks.runner.in_flight import Call, InFlight
from rayworks.runner.nested_output import NestedOutput
from rayworks.runner.outbox import Outbox
from rayworks.runner.worker import TaskCall, attach_run_log, outbox_here, remote_run_task, run_task_with_more_memory
from rayworks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput, State
    from prefect.futures import PrefectFuture
    from prefect.tasks import Task

logger = logging.getLogger(__name__)
MarkedT = TypeVar("MarkedT")

RUNS = 3
"""How often a flow run is begun whose Ray is lost, each time on another one."""

_cluster: places.Cluster | None = None
"""Where Ray runs for this process, within a block of :func:`ray_running`."""
_warm: Any = None
"""Reference to the Ray task that imports Prefect in a worker before the first task run needs it."""


def resources(**options: Any) -> Callable[[MarkedT], MarkedT]:
    """Declare what a task needs of Ray, such as ``num_cpus=0``, ``num_gpus``, ``memory`` (bytes) or ``resources``.

    All that ``ray.remote`` takes is allowed, also ``max_retries``. Beside ``memory`` there is ``max_memory``: a task that
    runs out of memory is run again with twice as much, up to that. The mark sits on the task's function, so that it
    stays through ``task.with_options``; ``prefect_ray.remote_options`` around a submit wins over it::

        @task
        @resources(num_cpus=0)
        def coordinate(): ...
    """

    def mark(target: MarkedT) -> MarkedT:
        getattr(target, "fn", target).__dict__["ray_options"] = options
        return target

    return mark


@contextlib.contextmanager
def ray_running(address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> Generator[None]:
    """Ray for this process and all flows that run within the block; nothing of it is left after the block.

    A flow starts and ends Ray by itself. A program that wants Ray to start while Prefect does, or to stay for several
    flows, opens this block around them. Within another block, or where Ray is connected already, it changes nothing.

    Args:
        address: As for :class:`RayTaskRunner`.
        init_kwargs: More arguments for ``ray.init``.

    Raises:
        ClusterError: Ray cannot be started or reached.
    """
    global _cluster, _warm
    places.prepare()
    import ray

    if ray.is_initialized():
        yield
        return
    settings = Settings()
    cluster = places.cluster_of(settings.model_copy(update={"ray_address": address}) if address else settings)
    cluster.acquire(worker_environment() | ({capacity.GROWS: "1"} if cluster.may_grow else {}), init_kwargs or {})
    _cluster = cluster
    try:
        _warm = _warm_up()
        yield
    finally:
        _cluster = _warm = None
        cluster.release()


class RayTaskRunner(PrefectRayTaskRunner[Any]):
    """Runs each task of a flow as a Ray task.

    Args:
        address: A running Ray: ``auto``, ``host:port`` or ``ray://host:port``. By default ``RAYWORKS_RAY_ADDRESS``,
            read when the flow starts; without that, a Ray of this process's own.
        init_kwargs: More arguments for ``ray.init``.

    A task and the flow run's context are sent to Ray when the task is first submitted in a flow run, so later changes
    of a variable that the task's function closes over are not seen by its later runs.
    """

    def __init__(self, address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(address=address, init_kwargs=init_kwargs)
        self._failure: RayworksError | None = None
        self._output: NestedOutput | None = None
        self._flow_run_id: UUID | None = None
        self._shared: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self._preflight: preflight.Preflight | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        cast(Any, TaskRunner).__enter__(self)  # not prefect_ray's, which starts a Ray of its own
        server.set_defaults()
        self._outbox = outbox_here() or Outbox()
        self._in_flight = InFlight(self._outbox)
        attach_run_log(os.environ.get("PREFECT__FLOW_RUN_ID"))  # first: a cluster tells what it waits for
        try:
            self._stack.enter_context(ray_running(self.address, self.init_kwargs))
            self._preflight = _preflight()
        except RayworksError as error:
            self._failure = error  # raised at the first submit: raised here, Prefect would leave the run Running
        self._lost: concurrent.futures.Future[ClusterError] = _cluster.lost if _cluster else concurrent.futures.Future()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        try:
            if self._lost.done():
                self._in_flight.abandon()
            else:
                self._in_flight.end()
            if cancelled := self._in_flight.cancelled:
                self.logger.warning(
                    f"Cancelled {len(cancelled)} task runs on Ray that had not ended when the flow did."
                )
            if not outbox_here():
                self._outbox.close()
            _report_crashed(self._flow_run_id, self._in_flight)
            if self._flow_run_id and server.is_embedded(configured_api_url()):
                server.expect(str(self._flow_run_id), self._in_flight.recorded)
        finally:
            if self._output:
                self._output.stop()
            self._shared.clear()
            self._stack.close()
            cast(Any, TaskRunner).__exit__(self, *exc_info)

    def submit(
        self,
        task: "Task[..., Any]",
        parameters: dict[str, Any],
        wait_for: "Iterable[PrefectFuture[Any]] | None" = None,
        dependencies: "dict[str, set[RunInput]] | None" = None,
    ) -> PrefectRayFuture[Any]:
        """Submit one task run to Ray.

        Raises:
            ClusterError: The connection to Ray is lost, or (at the first submit) the workers do not fit the driver.
            TransferError: The task, its flow or a parameter cannot be pickled.
        """
        import ray

        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        if self._failure:
            raise self._failure
        _raise_if_lost(self._lost)
        if not ray.is_initialized():  # ray:// would start a local Ray in silence
            raise ClusterError("the connection to Ray is lost", remedy="Run the flow again; finished stages are kept")
        if self._preflight:
            self._check_nodes(self._preflight)
        self._listen(task)
        task_run_id = uuid4()
        try:
            state, ending = self._send(task, task_run_id, parameters, wait_for, dependencies)
        except Exception as error:
            if explained := _why_not_sent(task, parameters, error):
                raise explained from error
            raise
        self._in_flight.add(Call(task, task_run_id, state, ending))
        self._outbox.start()
        return RayFuture(task_run_id=task_run_id, wrapped_future=state, task_name=task.name, lost=self._lost)

    def _send(
        self,
        task: "Task[..., Any]",
        task_run_id: UUID,
        parameters: dict[str, Any],
        wait_for: "Iterable[PrefectFuture[Any]] | None",
        dependencies: "dict[str, set[RunInput]] | None",
    ) -> tuple[Any, Any]:
        """The references to the last state and the ending of a task run that is on its way."""
        arguments, upstream = self._exchange_prefect_for_ray_futures(parameters)
        parent = TaskRunContext.get()
        inputs, known = _came_from(parameters), dependencies or {}
        call = TaskCall(
            flow_run=self._share(_serialized_flow_run, FlowRunContext.get(), SettingsContext.get()),
            task=self._share(lambda: task, task),
            task_run_id=task_run_id,
            parameters=arguments,
            wait_for=wait_for,
            dependencies={name: inputs.get(name, set()) | known.get(name, set()) for name in inputs | known},
            tags=frozenset(TagsContext.get().current_tags),
            parent_task_run=parent.serialize() if parent else {},
            assets=_serialized_assets(task, task_run_id, inputs),
            has_upstream=bool(upstream),
        )
        options = {**getattr(task.fn, "ray_options", {}), **RemoteOptionsContext.get().current_remote_options}
        # What Ray takes when a function is made remote only; with GPUs it is 1, so that a process gives their memory back.
        max_calls = options.pop("max_calls", None) or (1 if options.get("num_gpus") else 0)
        if (max_memory := options.pop("max_memory", None)) is None:
            return (
                remote_run_task(max_calls)
                .options(name=task.name, num_returns=2, **options)
                .remote(*upstream, call=call)
            )
        options = {"name": task.name, "memory": max_memory / 2, **options}
        remote = _remote_run_task_with_more_memory().options(name=f"{task.name} (memory)", num_returns=2)
        return remote.remote(upstream, call=call, options=options, max_calls=max_calls, max_memory=max_memory)

    def collect(self) -> None:
        """Bring home what the task runs that have ended report; also done twice a second by itself."""
        self._in_flight.collect()

    def _check_nodes(self, asked: preflight.Preflight) -> None:
        self._preflight = None
        try:
            asked.check()
        except ClusterError as error:
            self._failure = error
            raise

    def _listen(self, task: "Task[..., Any]") -> None:
        """Bring what nested work prints into the log of the flow run, from its first task on."""
        context = FlowRunContext.get()
        if context and context.flow_run and not context.detached and self._output is None:
            self._flow_run_id = context.flow_run.id
            attach_run_log(self._flow_run_id)
            self._output = NestedOutput(context.flow_run.id)
            self._output.start()
            if _cluster is not None and (dashboard := _cluster.dashboard()):
                get_run_logger().info(f"The Ray dashboard is at {dashboard}")
        if self._output:
            self._output.task_names.add(task.name)

    def _share(self, make: Callable[[], Any], *owners: Any) -> Any:
        """The reference to what ``make`` gives, put to Ray once for the same ``owners``."""
        key = tuple(id(owner) for owner in owners)
        if key not in self._shared:
            import ray

            self._shared[key] = (ray.put(make()), owners)  # the owners are kept, so that their ids stay theirs
        return self._shared[key][0]


class RayFuture(PrefectRayFuture[Any]):
    """Waits and calls back outside of Ray's own code.

    Within ``ray.get``, Ray swallows what Prefect's handler of SIGTERM raises; and a callback in the thread in which Ray
    tells of an end would wait for ever when it asks Ray for the result.
    """

    def __init__(self, *, task_name: str, lost: "concurrent.futures.Future[ClusterError]", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._task_name, self._lost = task_name, lost

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs of it whose task waits for it: the connection that may be lost is the driver's."""
        return {name: value for name, value in self.__dict__.items() if name != "_lost"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lost=concurrent.futures.Future())

    def wait(self, timeout: float | None = None) -> None:
        self._await(timeout)
        super().wait(timeout=timeout if timeout is None else 0)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        from ray.exceptions import RayError

        self._await(timeout)
        try:
            result: Any = super().result(timeout=timeout if timeout is None else 0, raise_on_failure=raise_on_failure)
        except RayError as error:
            if explained := _explained(self._task_name, error):
                raise explained from error
            raise
        if self._final_state:  # a task that is given the result is shown after this one, as it is on threads
            link_state_to_task_run_result(self._final_state, result)
        return result

    def add_done_callback(self, fn: Callable[[PrefectRayFuture[Any]], Any]) -> None:
        if self._final_state:
            fn(self)
        else:
            cast(Any, self.wrapped_future).future().add_done_callback(lambda _: _callbacks().submit(self._tell, fn))

    def _tell(self, fn: Callable[[PrefectRayFuture[Any]], Any]) -> None:
        try:
            self.wait()
            fn(self)
        except Exception:  # as concurrent.futures does, whose callbacks these would be on threads
            logger.exception("what waited for task run %s failed", self.task_run_id)

    def _await(self, timeout: float | None) -> None:
        if not self._final_state:
            ended = cast(Any, self.wrapped_future).future()
            concurrent.futures.wait([ended, self._lost], timeout, return_when=concurrent.futures.FIRST_COMPLETED)
            if not ended.done() or ended.exception():
                _raise_if_lost(self._lost)


def _raise_if_lost(lost: "concurrent.futures.Future[ClusterError]") -> None:
    """Raise why Ray ended, if it did; and let Prefect begin the flow run again if another Ray may do better."""
    if not lost.done():
        return
    error, context = lost.result(), FlowRunContext.get()
    if isinstance(error, ClusterLostError) and context and context.flow_run:
        _allow_another_run(context.flow_run.id)
    raise error


def _explained(task_name: str, error: BaseException) -> ClusterError | None:
    return _cluster.explain(task_name, error) if _cluster is not None else None


def _allow_another_run(flow_run_id: UUID) -> None:
    """Raise the retries of a flow run by one: only a lost Ray is worth it, a failure would come again."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(flow_run_id)
        policy, count = flow_run.empirical_policy, flow_run.run_count
        if count < RUNS and (policy.retries or 0) < count:
            client.update_flow_run(
                flow_run_id, empirical_policy=policy.model_copy(update={"retries": count, "retry_delay": 0})
            )


@functools.cache
def _callbacks() -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(thread_name_prefix="rayworks-callbacks")


@functools.cache
def _remote_run_task_with_more_memory() -> Any:
    import ray

    at_once = {"env_vars": {"RAY_task_oom_retries": "0"}}  # no second try with the memory that was not enough
    return cast(Any, ray.remote)(num_cpus=0, runtime_env=at_once)(run_task_with_more_memory)


def _serialized_flow_run() -> dict[str, Any]:
    """The context of the flow run, without what differs between its task runs; it names the one API of the run."""
    context, flow_run = serialize_context(), FlowRunContext.get()
    context["task_run_context"] = context["tags_context"] = {}
    if flow_run and (store := flow_run.result_store):
        # The storage as the object that it is: to make it from its block's name, Prefect imports all of its integrations
        # in the worker, which for Kubernetes' alone takes most of a second.
        context["flow_run_context"]["result_store"] = {
            name: getattr(store, name) for name in store.model_fields_set - {"cache"}
        }
    if context["settings_context"]:
        settings = context["settings_context"]["settings"]
        api = settings.setdefault("api", {})
        if _cluster is not None and _cluster.is_elsewhere:
            api.pop("url", None)  # the worker's environment names the API that it can reach
        elif url := configured_api_url():
            api["url"] = url
        if server.is_embedded(configured_api_url()):
            settings["ui_url"] = ""  # it ends with this process: nobody could open a link to it
    return context


def _came_from(parameters: dict[str, Any]) -> "dict[str, set[Any]]":
    """The task runs whose results are among the parameters: only this process knows, the worker sees copies."""
    flow_run = FlowRunContext.get()
    if not flow_run or not (
        flow_run.run_results or flow_run.task_run_assets
    ):  # only then can one have come with either
        return {}
    return {
        name: collect_task_run_inputs_sync(value, future_cls=PrefectRayFuture) for name, value in parameters.items()
    }


def _serialized_assets(task: "Task[..., Any]", task_run_id: UUID, inputs: "dict[str, set[Any]]") -> dict[str, Any]:
    return AssetContext.from_task_and_inputs(
        task, task_run_id=task_run_id, task_inputs=inputs, copy_to_child_ctx=True
    ).serialize()


def _why_not_sent(task: "Task[..., Any]", parameters: dict[str, Any], error: Exception) -> TransferError | None:
    name, flow_run = f"task '{task.name}'", FlowRunContext.get()
    candidates: dict[str, Any] = {f"the function of {name}": task.fn, name: task}
    candidates |= {f"parameter '{key}' of {name}": value for key, value in parameters.items()}
    if flow_run and flow_run.flow:
        flow = f"flow '{flow_run.flow.name}', which goes with its first {name},"
        candidates |= {f"the function of {flow}": flow_run.flow.fn, flow: flow_run.flow}
        candidates |= {f"parameter '{key}' of {flow}": value for key, value in (flow_run.parameters or {}).items()}
    return unpicklable.explanation(candidates, error)


def configured_api_url() -> str | None:
    """The Prefect API of this process: configured, or Prefect's own embedded server where that one runs."""
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        return str(url)
    from prefect.server.api.server import SubprocessASGIServer  # the whole server: more than a second

    server = SubprocessASGIServer()
    return server.api_url if server.running else None


def worker_environment() -> dict[str, str]:
    """What the workers are told: the settings of this process, and above all which API to use."""
    from prefect.settings import get_current_settings

    environment = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    environment = {name: value for name, value in environment.items() if name != "PREFECT_HOME"}
    if url := configured_api_url():
        environment["PREFECT_API_URL"] = url
    settings = Settings()
    environment["RAYWORKS_STORAGE_URI"] = storage.absolute(settings.storage_uri)
    if settings.mlflow_tracking_uri:
        environment["RAYWORKS_MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
    return environment


def _import_prefect() -> None:
    importlib.import_module("prefect.task_engine")
    importlib.import_module("prefect_ray")


def _warm_up() -> Any:
    """Let a worker import Prefect while this process goes on. Returns the reference to its end."""
    import ray

    return ray.remote(_import_prefect).options(num_cpus=0).remote()


def _preflight() -> preflight.Preflight | None:
    """Ask the nodes, unless this is a task that submits tasks: its flow run has asked."""
    import ray

    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        return None
    if _cluster is not None and _cluster.is_elsewhere:
        return preflight.Preflight(None, None, _warm)
    return preflight.Preflight(configured_api_url(), Settings().storage_uri, _warm)


def _report_crashed(flow_run_id: UUID | None, in_flight: InFlight) -> None:
    """Give task runs that ended without a state the state Crashed: nobody else will."""
    if not in_flight.lost:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter
    from prefect.states import Crashed

    def crashed(call: Call, error: Exception | None) -> "State[Any]":
        explained = _explained(call.task.name, error) if error else None
        return Crashed(message=str(explained or "Its Ray task was cancelled, or its worker process ended."))

    lost = {call.task_run_id: (call, error) for call, error in in_flight.lost}
    with get_client(sync_client=True) as client:
        # One that was cancelled, and that the API does not know, has never begun.
        known = {call.task_run_id for call in in_flight.cancelled}
        ids = list(lost)
        for first in range(0, len(ids), 200):
            some = TaskRunFilter.model_validate({"id": {"any_": ids[first : first + 200]}})
            for run in client.read_task_runs(task_run_filter=some):
                known.add(run.id)
                if run.state is None or not run.state.is_final():
                    client.set_task_run_state(run.id, crashed(*lost[run.id]), force=True)
        for task_run_id, (call, error) in lost.items():
            if task_run_id not in known:
                name, state = f"{call.task.name}-{task_run_id.hex[:3]}", crashed(call, error)
                client.create_task_run(call.task, flow_run_id, str(task_run_id), id=task_run_id, name=name, state=state)
