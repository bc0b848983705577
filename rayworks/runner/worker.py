"""The worker's side of the runner: runs Prefect task runs in a Ray worker process, with Prefect's own engine."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from rayworks import task_threads
from rayworks.errors import RayworksError, TransferError, first_line, note_task
from rayworks.runner import _private, unpicklable
from rayworks.runner.flow_run_cache import EnteredFlowRun, FlowRunCache
from rayworks.runner.in_flight import Nested
from rayworks.runner.outbox import Messages, Outbox
from rayworks.runner.stalls import QuietTaskWatch
from rayworks.runner.transactions import Around, Staged
from rayworks.settings import STALL_SECONDS

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput, State
    from prefect.tasks import Task

logger = logging.getLogger(__name__)

CACHE_SIZE = 32
"""How many flow runs, and how many tasks, a worker process remembers."""


@dataclass(frozen=True)
class TaskCall:
    """One task run, as it is sent to a worker. What many task runs share is sent once, by reference."""

    flow_run: Any
    """Reference to the serialized context of the flow run."""
    task: Any
    """Reference to the task."""
    task_run_id: UUID
    parameters: dict[str, Any]
    wait_for: Any
    dependencies: "dict[str, set[RunInput]] | None"
    tags: frozenset[str]
    parent_task_run: dict[str, Any]
    assets: dict[str, Any]
    has_upstream: bool = False
    """Whether the parameters hold references to the results of other tasks."""
    transaction: Around | None = None
    """The user's transaction around the submit."""
    stall_seconds: float = STALL_SECONDS
    """After how long without a message it is named in its log."""


@dataclass(frozen=True)
class TaskRunEnd:
    """What a task run returns beside its state."""

    is_final: bool
    """Whether the state is final."""
    messages: Messages
    """Messages that are not sent yet."""
    nested: Nested | None = None
    """The task runs that it has submitted."""
    transaction: Staged | None = None
    """What the task run's transaction staged, if there is one around its submit."""


class WorkerProcess:
    """What a Ray worker process keeps from one task run to the next."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.quiet_tasks = QuietTaskWatch(lambda: self.outbox.last_message)
        self.flow_runs = FlowRunCache(_enter_flow_run, CACHE_SIZE)
        self.task = functools.lru_cache(maxsize=CACHE_SIZE)(_task)
        self.task_run_id: UUID | None = None
        """The task run whose result is sent to the driver."""
        self.checks_results = False


def _enter_flow_run(reference: Any) -> EnteredFlowRun:
    import ray

    return EnteredFlowRun(ray.get(reference))


def _task(reference: Any) -> "Task[..., Any]":
    import ray

    task = cast("Task[..., Any]", ray.get(reference))
    if task.isgenerator:  # a generator cannot be sent, so the result is the list of what it yields
        task.fn = _collected_async(task.fn) if task.isasync else _collected(task.fn)
    return task


def _collected(generator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generator)
    def collect(*args: Any, **kwargs: Any) -> list[Any]:
        return list(generator(*args, **kwargs))

    return collect


def _collected_async(generator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generator)
    async def collect(*args: Any, **kwargs: Any) -> list[Any]:
        return [item async for item in generator(*args, **kwargs)]

    return collect


_worker_process = WorkerProcess()
"""Ray calls :func:`run_task` by its name and passes only arguments, so what a process keeps between two calls has to be
found in the module. A process runs one task at a time."""


def outbox_of_worker() -> Outbox | None:
    """Return the outbox of this process if it is a worker that runs a task run; None in a driver.

    Messages of task runs that a task submits return through it, with those of the task itself.
    """
    outbox = _worker_process.outbox
    return outbox if outbox.is_collecting else None


def run_task(*upstream: Any, call: TaskCall) -> "tuple[State[Any], TaskRunEnd]":
    """Run one task run to its last state, which is final unless the task is paused or its upstream failed.

    Args:
        upstream: The results that ``call`` refers to. They are arguments so that Ray waits for them.
        call: The task run.
    """
    task_threads.process.set()
    worker = _worker_process
    worker.outbox.collect_from_process()
    worker.task_run_id = call.task_run_id
    if not worker.checks_results:
        _private.check_results(_check_result)
        worker.checks_results = True
    parameters = _resolved(call.parameters) if call.has_upstream else call.parameters
    with worker.flow_runs.use(call.flow_run) as flow_run:
        task = worker.task(call.task)
        worker.outbox.start(flow_run.client)
        try:
            try:
                with worker.quiet_tasks.watch(flow_run.id, call.task_run_id, call.stall_seconds):
                    state = flow_run.run(call, task, parameters)
            finally:
                _private.wait_for_collected_events()
        except BaseException as error:
            if not isinstance(error, SystemExit) or _private.is_rays_own(error):
                worker.outbox.send()  # no messages return with a result, and this process may be killed at once
                raise
            state = _crashed_by(error)  # of the task; Ray would end this process, and say that it had died
        nested = flow_run.hand_over_nested()
        end = TaskRunEnd(state.is_final(), worker.outbox.take(), nested, flow_run.staged)
        return _with_error_to_send(state, task.name), end


def _check_result(task_run_id: UUID, task: "Task[..., Any]", result: Any) -> None:
    """Raise ``TransferError`` if a result cannot be sent to the driver: the task run fails, as by the task's own error.

    A task that is called within a task returns its result in this process, where it may be anything.
    """
    if task_run_id != _worker_process.task_run_id:
        return
    try:
        _private.serialize(result)
    except Exception as error:
        raise unpicklable.explain_result(task, result, error) from error


def _crashed_by(system_exit: SystemExit) -> "State[Any]":
    from prefect.states import Crashed

    return Crashed(message=f"The task called sys.exit({system_exit.code!r}): raise an error instead, or return")


def _with_error_to_send(state: "State[Any]", task: str) -> "State[Any]":
    """Return a failed state with an error that the driver can unpickle, or else with one that quotes it.

    An error that is not ours gets a note of the task and its traceback.
    """
    if not (state.is_failed() or state.is_crashed()):
        return state
    from ray import cloudpickle

    pickle = cast(Any, cloudpickle)
    data: Any = state.data
    error = data if isinstance(data, BaseException) else getattr(data, "result", None)  # of a record
    if isinstance(error, BaseException) and not isinstance(error, RayworksError):
        note_task(error, task)
    try:
        pickle.loads(pickle.dumps(state))
    except Exception as reason:
        what, detail = f"{type(error).__name__}: {error}", f"the error itself cannot be sent to the driver: {reason}"
        return state.model_copy(update={"data": TransferError(what, detail=detail)})
    return state


def _resolved(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return ``parameters`` with values in place of Ray's references."""
    import ray
    from prefect.utilities.collections import visit_collection

    def resolve(value: Any) -> Any:
        return ray.get(value) if isinstance(value, ray.ObjectRef) else value

    return visit_collection(parameters, visit_fn=resolve, return_data=True)


@functools.cache
def remote_run_task(max_calls: int) -> Any:
    """Return :func:`run_task` as a remote function.

    Args:
        max_calls: How many task runs one of its processes serves; 0 for any number.
    """
    import ray

    return cast(Any, ray.remote)(max_calls=max_calls)(run_task)


def run_task_with_more_memory(
    upstream: "list[Any]", *, call: TaskCall, options: dict[str, Any], max_calls: int, max_memory: float
) -> "tuple[State[Any], TaskRunEnd]":
    """Run one task run in a nested Ray task, and run it again with twice the memory each time it runs out of it.

    Args:
        upstream: References to the results that ``call`` refers to.
        call: The task run.
        options: Options for Ray; ``memory`` (bytes) is what the first attempt gets.
        max_calls: As for :func:`remote_run_task`.
        max_memory: The most that an attempt gets, in bytes.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    memory = options["memory"]
    while True:
        try:
            attempt = remote_run_task(max_calls).options(**options | {"memory": memory})
            return ray.get(attempt.remote(*upstream, call=call))
        except (OutOfMemoryError, WorkerCrashedError) as error:  # the kernel kills a process without an explanation
            if memory >= max_memory:
                raise
            memory = min(2 * memory, max_memory)
            logger.warning("The task runs again with %.1f GiB of memory: %s", memory / 2**30, first_line(error))


@functools.cache
def remote_run_task_with_more_memory() -> Any:
    """Return :func:`run_task_with_more_memory` as a remote function."""
    import ray

    no_retries = {"env_vars": {"RAY_task_oom_retries": "0"}}  # Ray would retry with the memory that was not enough
    return cast(Any, ray.remote)(num_cpus=0, runtime_env=no_retries)(run_task_with_more_memory)
