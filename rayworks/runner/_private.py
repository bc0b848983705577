"""What the runner uses of Prefect, prefect-ray and Ray beyond their documented interfaces, in one place.

Read in Prefect 3.8.8, prefect-ray 0.6.0 and Ray 2.60.0. Each function says what it relies on and why.
``tests/seams/test_runner_seams.py`` fails when a release changes it.
"""

import concurrent.futures
import copyreg
import importlib
import importlib.util
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

from prefect.context import AssetContext, FlowRunContext, serialize_context
from prefect.task_runners import TaskRunner
from prefect.utilities.annotations import allow_failure, opaque, quote, unmapped
from prefect.utilities.engine import collect_task_run_inputs_sync, link_state_to_task_run_result
from prefect_ray import task_runners as prefect_ray_task_runners
from prefect_ray.context import RemoteOptionsContext
from prefect_ray.task_runners import PrefectRayFuture

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput, State
    from prefect.tasks import Task

# Importing Ray


class _RayWhenUsed(ModuleType):
    """Stands for the module ``ray`` in prefect-ray, and imports it when an attribute is read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("ray"), name)


def import_ray_once() -> None:
    """Let Python import Ray by itself, after prefect-ray was imported.

    prefect-ray puts a module ``ray`` into ``sys.modules`` that is executed when an attribute of it is read
    (``prefect.utilities.importtools.lazy_import``, on ``importlib.util.LazyLoader``). If the next import is one of a
    submodule, as in ``from ray.exceptions import RayTaskError``, Python executes that submodule twice, once through
    ``ray`` itself: there are two classes of each name, and ``except RayTaskError`` catches nothing. The same happens
    with any package (python/cpython#86439).
    """
    if type(sys.modules.get("ray")) is getattr(importlib.util, "_LazyModule"):  # noqa: B009 - a private name
        del sys.modules["ray"]
        prefect_ray_task_runners.__dict__["ray"] = _RayWhenUsed("ray")


import_ray_once()

# What a task run reports


class _EventQueue(Protocol):
    """What Prefect's ``ProcessPoolForwardingEventsClient`` needs of a queue."""

    def put(self, item: tuple[str, Any]) -> None:
        """Take a pair of the kind of the item and a Prefect event."""
        ...


def collect_logs_and_events(add_line: Callable[[dict[str, Any]], None], events: _EventQueue) -> None:
    """Give what Prefect logs and emits in this process to ``add_line`` and ``events`` instead of sending it.

    These are the hooks of Prefect's own ``ProcessPoolTaskRunner`` (PrefectHQ/prefect#20864). Without them, each worker
    opens a websocket for events and starts a service for logs, which costs more than a short task run.
    """
    from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
    from prefect.logging.handlers import set_api_log_sink

    set_api_log_sink(add_line)
    EventsWorker.set_client_override(ProcessPoolForwardingEventsClient, event_queue=events)


def wait_for_collected_events() -> None:
    """Wait until the events that this process has emitted are in the queue of :func:`collect_logs_and_events`.

    Prefect hands them over in a thread. Relies on ``wait_until_empty`` of the service ``EventsWorker``.
    """
    from prefect.events.worker import EventsWorker

    EventsWorker.instance().wait_until_empty()


def for_api(line: dict[str, Any]) -> dict[str, Any]:
    """Return a collected log line as the API takes it: without the size that ``APILogHandler.prepare`` adds."""
    return {name: value for name, value in line.items() if name != "__payload_size__"}


def send_log_record(record: logging.LogRecord) -> None:
    """Send a log record to the API, whatever the levels and filters of loggers are.

    Relies on ``APILogHandler.prepare``, which finds the run by the record's ``flow_run_id``, and on ``emit_api_log``.
    """
    from prefect.logging.handlers import APILogHandler, emit_api_log

    emit_api_log(APILogHandler().prepare(record))


# The context of a flow run


def serialized_flow_run_context() -> dict[str, Any]:
    """Return the context of the current flow run for its workers, without what differs between task runs.

    ``serialize_context`` (PrefectHQ/prefect#13529) is what Prefect's task runners call for each task run. It is called
    once per flow run here, so the parts that belong to one task run are emptied; :class:`TaskCall` carries them.

    The result storage is passed as the object that it is. ``serialize_context`` passes its fields, from which the
    worker creates the block again, and for that Prefect imports all of its installed integrations
    (PrefectHQ/prefect#20853). With ``prefect-kubernetes``, that takes most of a second in each worker.
    """
    context, flow_run = serialize_context(), FlowRunContext.get()
    context["task_run_context"] = context["tags_context"] = {}
    if flow_run and (store := flow_run.result_store):
        fields = store.model_fields_set - {"cache"}
        context["flow_run_context"]["result_store"] = {name: getattr(store, name) for name in fields}
    return context


def flow_run_context_entered(serialized: dict[str, Any]) -> AbstractContextManager[None]:
    """Return a context manager for the flow run context that :func:`serialized_flow_run_context` returned.

    ``hydrated_context`` is what Prefect's engine enters for each task run that comes from another process. It also
    starts a copy of the flow's task runner, so that a task can submit tasks (PrefectHQ/prefect#14788).
    """
    from prefect.context import hydrated_context

    return hydrated_context(serialized)


def flow_run_context_for_task_run(context: FlowRunContext) -> FlowRunContext:
    """Return a copy of the flow run context whose records of results and assets are empty.

    In the driver, each of them grows by one entry per task run. In a worker, no entry may pass from one task run to the
    next.
    """
    fields = ("task_run_dynamic_keys", "run_results", "task_run_assets")
    return context.model_copy(update={name: {} for name in fields})


def serialized_asset_context(
    task: "Task[..., Any]", task_run_id: UUID, inputs: "dict[str, set[RunInput]]"
) -> dict[str, Any]:
    """Return the asset context of a task run for its worker, and record its assets in the flow run context.

    ``serialize_context`` does the same (``asset_ctx_kwargs``), but serializes all other contexts as well.
    """
    return AssetContext.from_task_and_inputs(
        task, task_run_id=task_run_id, task_inputs=inputs, copy_to_child_ctx=True
    ).serialize()


# The engine of task runs


def run_task_to_state(
    task: "Task[..., Any]",
    *,
    run: Callable[[Any], Any],
    task_run_id: UUID,
    parameters: dict[str, Any],
    wait_for: "Iterable[Any] | None",
    dependencies: "dict[str, set[RunInput]] | None",
) -> "State[Any]":
    """Run one task run with Prefect's engine, in the contexts that are entered now, and return its last state.

    prefect_ray calls the same two functions, but in a worker of its own and with the serialized context.

    Args:
        task: The task.
        run: Runs the coroutine of an async task.
        task_run_id: ID of the task run.
        parameters: Parameters of the task.
        wait_for: Futures that the task run waits for.
        dependencies: The inputs of the task run that are known already, by parameter.
    """
    from prefect.task_engine import run_task_async, run_task_sync

    arguments: dict[str, Any] = {
        "task": task,
        "task_run_id": task_run_id,
        "parameters": parameters,
        "wait_for": wait_for,
        "dependencies": dependencies,
        "return_type": "state",
    }
    state = run(run_task_async(**arguments)) if task.isasync else run_task_sync(**arguments)
    return cast("State[Any]", state)


def check_results(check: "Callable[[UUID, Task[..., Any], Any], None]") -> None:
    """Call ``check`` with the id, the task and the result of each task run in this process, before it completes.

    What ``check`` raises fails the task run, as if the task had raised it. Relies on ``handle_success`` of Prefect's
    engines, which gets the result; nothing public does before a state is set.
    """
    from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine

    for engine in (SyncTaskRunEngine, AsyncTaskRunEngine):
        handle_success = vars(engine)["handle_success"]

        def handle_checked(
            self: Any, result: Any, *args: Any, handle_success: Callable[..., Any] = handle_success, **kwargs: Any
        ) -> Any:
            check(self.task_run.id, self.task, result)
            return handle_success(self, result, *args, **kwargs)

        engine.handle_success = handle_checked


API_IS_AWAY = "Failed to reach API"
"""The beginning of the ``RuntimeError`` that a client raises when it is entered and the API does not respond."""


def sync_client_entered() -> "AbstractContextManager[Any]":
    """Return a context manager for the context that holds the one HTTP client of the task runs within it.

    Without ``SyncClientContext``, Prefect's engine creates a client, and its TLS context, for each task run.
    The ``client`` of the value is the client.
    """
    from prefect.context import SyncClientContext

    return SyncClientContext.get_or_create()


async def enter_async_client() -> Any:
    """Enter the context that holds the HTTP client of async task runs, and return it for :func:`exit_async_client`.

    The client belongs to the event loop that runs this coroutine. See :func:`sync_client_entered`.
    """
    from prefect.context import AsyncClientContext

    return await AsyncClientContext().__aenter__()


async def exit_async_client(context: Any) -> None:
    """Exit the context of :func:`enter_async_client`, in the same event loop and the same ``contextvars.Context``."""
    await context.__aexit__(None, None, None)


def input_task_runs(parameters: dict[str, Any]) -> "dict[str, set[RunInput]]":
    """Return the runs whose results, states or futures are among the parameters, by parameter.

    prefect_ray calls ``collect_task_run_inputs_sync`` for each task run as well. It recognizes results by the flow run
    context of this process, so the worker, which gets copies, could not.
    """
    return {
        name: cast("set[RunInput]", collect_task_run_inputs_sync(value, future_cls=PrefectRayFuture))
        for name, value in parameters.items()
    }


def link_result(state: "State[Any]", result: Any) -> None:
    """Record that ``result`` came from the task run of ``state``, as Prefect does for task runs in this process."""
    link_state_to_task_run_result(state, result)


# prefect-ray


def keep_annotations_when_pickled() -> None:
    """Make Prefect's annotations of parameters, such as ``allow_failure``, survive pickling.

    ``BaseAnnotation`` is a ``tuple`` whose ``__new__`` takes the one value, but pickle passes it the whole tuple: what
    was ``allow_failure(value)`` arrives as ``allow_failure((value,))``.
    """
    for annotation in (allow_failure, opaque, quote, unmapped):
        copyreg.pickle(annotation, _reduce_annotation)


def _reduce_annotation(annotation: Any) -> tuple[type, tuple[Any]]:
    return type(annotation), (annotation.unwrap(),)


def start_without_ray(runner: "TaskRunner[Any]") -> None:
    """Start the task runner as ``TaskRunner.__enter__`` does, and skip prefect_ray's, which starts Ray by itself."""
    cast(Any, TaskRunner).__enter__(runner)


def stop_without_ray(runner: "TaskRunner[Any]", *exc_info: Any) -> None:
    """Stop what :func:`start_without_ray` started."""
    cast(Any, TaskRunner).__exit__(runner, *exc_info)


def with_object_refs(runner: "TaskRunner[Any]", parameters: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return ``parameters`` with Ray's references in place of futures, and the references.

    Relies on prefect_ray's private ``_exchange_prefect_for_ray_futures``, which visits collections as Prefect does.
    """
    return cast(Any, runner)._exchange_prefect_for_ray_futures(parameters)


def remote_options() -> dict[str, Any]:
    """Return the options of the ``prefect_ray.remote_options`` blocks around the caller.

    ``remote_options`` is documented; the context that it enters, ``RemoteOptionsContext``, is not.
    """
    return RemoteOptionsContext.get().current_remote_options


def final_state(future: PrefectRayFuture[Any]) -> "State[Any] | None":
    """Return the state that the future has received; ``future.state`` would ask the API when there is none."""
    return cast(Any, future)._final_state


# Ray

SHIELDED_SECONDS = 1.0
"""By how much the time limit of a task that waits for another one may be late."""


def lacks_upstream(error: object) -> bool:
    """Return whether Ray ran no task because of one that it depends on. Relies on the text of ``RayTaskError``."""
    from ray.exceptions import ObjectLostError  # of a result that was there

    says_so = "At least one of the input arguments for this task could not be computed" in str(error)
    return says_so and not isinstance(error, ObjectLostError)


def serialize(value: Any) -> None:
    """Serialize a value as Ray does with the result of a task, and discard it. Large buffers are not copied.

    ``ray.cloudpickle`` is not the same: it knows nothing of the references within a value.
    """
    from ray._private.worker import global_worker

    cast(Any, global_worker).get_serialization_context().serialize(value)


def is_rays_own(system_exit: SystemExit) -> bool:
    """Return whether Ray ends this process, for example by SIGTERM. Ray marks such an exit with an attribute."""
    return hasattr(system_exit, "ray_terminate_msg")


def concurrent_future(reference: Any) -> "concurrent.futures.Future[Any]":
    """Return the ``concurrent.futures.Future`` of an object reference.

    ``ObjectRef.future()`` is documented for asyncio. Its callbacks run in a thread in which Ray processes messages
    (ray-project/ray#39113): they must not wait for Ray.
    """
    return reference.future()


def wait_without_cpu(reference: Any, timeout: float | None) -> bool:
    """Wait in a worker, at most ``timeout`` seconds, and return whether an object exists.

    Ray gives others the CPU of a worker whose main thread waits in its code. That code discards what the handler of a
    signal raises, such as Prefect's at the time limit of a task. Prefect's private ``shield`` keeps that until it ends,
    so no wait in it takes long. What is waited for is not fetched, since each wait would fetch it anew.
    """
    import ray
    from prefect._internal.concurrency.cancellation import shield

    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        seconds = max(0.0, min(SHIELDED_SECONDS, deadline - time.monotonic()))
        with shield():
            ended, _ = ray.wait([reference], timeout=seconds, fetch_local=False)
        if ended or seconds < SHIELDED_SECONDS:
            return bool(ended)


def add_worker_output_handler(name: str, handler: Callable[[dict[str, Any]], None]) -> None:
    """Call ``handler`` with each batch of lines that Ray's workers print, until :func:`remove_worker_output_handler`.

    Ray streams them to the driver and prints them; only this dispatcher offers them. It calls handlers in Ray's thread.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    global_worker_stdstream_dispatcher.add_handler(name, handler)


def remove_worker_output_handler(name: str) -> None:
    """Remove the handler of that name, if there is one."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    global_worker_stdstream_dispatcher.remove_handler(name)


TERMINAL_HANDLER = "ray_print_logs"
"""The name of Ray's own handler, which prints the lines on the driver's terminal."""

AUTOSCALER_EVENT = ":event_summary:"
"""The mark of lines in which Ray's autoscaler informs a user, for example that a task requests more than a node has."""

MEMORY_ADVICE = (
    "Refer to the documentation on how to address the out of memory issue",
    "To see more information about the Workers",
)
"""How the parts of a raylet's report on killed workers begin that advise on Ray's settings, half a page each time."""
