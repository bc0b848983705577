"""The worker's side of the runner: runs Prefect task runs in a Ray worker process.

What Prefect builds anew for each task run (settings, HTTP clients and their TLS contexts, the flow run's context) is
built once for each worker process and flow run, and the rest of a task run is Prefect's own engine.
"""

import asyncio
import contextlib
import contextvars
import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from rayworks.runner.outbox import Mail, Outbox

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import RunInput, State
    from prefect.tasks import Task

logger = logging.getLogger(__name__)

KEPT = 32
"""Flow runs and tasks that a worker process remembers."""


@dataclass(frozen=True)
class TaskCall:
    """One task run, as it is sent to a worker. What many runs share travels once, by reference."""

    flow_run: Any
    """Reference to what :func:`prefect.context.serialize_context` gave for the flow run."""
    task: Any
    """Reference to the task."""
    task_run_id: UUID
    parameters: dict[str, Any]
    wait_for: Any
    dependencies: "dict[str, set[RunInput]] | None"
    tags: frozenset[str]
    parent_task_run: dict[str, Any]
    assets: dict[str, Any]
    has_upstream: bool = field(default=False)
    """Whether the parameters hold references to the results of other tasks."""


@dataclass(frozen=True)
class Ending:
    """What comes home beside the state of a task run."""

    is_final: bool
    mail: Mail
    """Log lines and events that are not sent yet."""


def run_task(*upstream: Any, call: TaskCall) -> "tuple[State[Any], Ending]":
    """Run one task run to its last state, which is final unless the task is paused or its upstream failed.

    Args:
        upstream: The results that ``call.parameters`` refers to; naming them makes Ray wait for them.
        call: The task run.
    """
    import ray
    from prefect.events.worker import EventsWorker
    from prefect.utilities.collections import visit_collection

    _outbox.collect_here()
    parameters = call.parameters
    if call.has_upstream:
        parameters = visit_collection(
            parameters,
            visit_fn=lambda value: ray.get(value) if isinstance(value, ray.ObjectRef) else value,
            return_data=True,
        )
    kept = _kept_flow_run(call.flow_run)
    task = _kept_task(call.task)
    _outbox.start(kept.client)
    try:
        try:
            state = kept.run(call, task, parameters)
        finally:
            EventsWorker.instance().wait_until_empty()  # it hands its events to the outbox
    except BaseException:  # cancelled: nothing goes home with a result, and this process may be ended at once
        _outbox.send()
        raise
    return state, Ending(state.is_final(), _outbox.take())


@functools.cache
def remote_run_task(max_calls: int) -> Any:
    """:func:`run_task` for Ray, whose processes each run ``max_calls`` of it; 0: any number."""
    import ray

    return cast(Any, ray.remote)(max_calls=max_calls)(run_task)


def run_task_with_more_memory(
    upstream: "list[Any]", *, call: TaskCall, options: dict[str, Any], max_calls: int, max_memory: float
) -> "tuple[State[Any], Ending]":
    """Run one task run in a Ray task of its own, and again with twice the memory as long as it runs out of it.

    Args:
        upstream: References to the results that ``call.parameters`` refers to.
        call: The task run.
        options: For Ray; ``memory`` (bytes) is what it begins with.
        max_calls: For Ray.
        max_memory: Bytes that it may ask for at most.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    memory = options["memory"]
    while True:
        try:
            return ray.get(
                remote_run_task(max_calls).options(**options | {"memory": memory}).remote(*upstream, call=call)
            )
        except (OutOfMemoryError, WorkerCrashedError) as error:  # the kernel ends a process without a word
            if memory >= max_memory:
                raise
            memory = min(2 * memory, max_memory)
            logger.warning("It is run again with %.1f GiB: %s", memory / 2**30, str(error).strip().splitlines()[0])


class KeptFlowRun:
    """A flow run's context in this process, entered once. Each task run works in a copy of it."""

    def __init__(self, serialized: dict[str, Any]) -> None:
        self._context = contextvars.copy_context()
        self._stack = contextlib.ExitStack()
        self._loop = asyncio.Runner()
        self._loop_entered = False
        self.client: SyncPrefectClient = self._context.run(self._enter, serialized)

    def _enter(self, serialized: dict[str, Any]) -> "SyncPrefectClient":
        from prefect.context import SyncClientContext, hydrated_context

        self._stack.enter_context(hydrated_context(serialized))
        attach_run_log()
        return self._stack.enter_context(SyncClientContext.get_or_create()).client

    def run(self, call: TaskCall, task: "Task[..., Any]", parameters: dict[str, Any]) -> "State[Any]":
        from prefect.task_engine import run_task_async, run_task_sync

        arguments: dict[str, Any] = {
            "task": task,
            "task_run_id": call.task_run_id,
            "parameters": parameters,
            "wait_for": call.wait_for,
            "dependencies": call.dependencies,
            "return_type": "state",
        }
        if not task.isasync:
            return self._context.copy().run(self._in_task_context, call, lambda: run_task_sync(**arguments))
        if not self._loop_entered:  # the client of async tasks belongs to one event loop, so that is kept as well
            self._loop.run(self._enter_async(), context=self._context)
            self._loop_entered = True

        return self._context.copy().run(
            self._in_task_context,
            call,
            lambda: self._loop.run(run_task_async(**arguments), context=contextvars.copy_context()),
        )

    async def _enter_async(self) -> None:
        from prefect.context import AsyncClientContext

        await AsyncClientContext().__aenter__()

    def _in_task_context(self, call: TaskCall, body: Any) -> "State[Any]":
        """Enter what belongs to one task run alone: nothing of it stays for the next."""
        from prefect.context import AssetContext, FlowRunContext, TaskRunContext, tags

        with contextlib.ExitStack() as stack:
            if flow_run := FlowRunContext.get():
                own: dict[str, Any] = {name: {} for name in ("task_run_dynamic_keys", "run_results", "task_run_assets")}
                stack.enter_context(flow_run.model_copy(update=own))
            if call.parent_task_run:
                stack.enter_context(TaskRunContext(**call.parent_task_run, client=self.client))
            if call.tags:
                stack.enter_context(tags(*call.tags))
            stack.enter_context(AssetContext(**call.assets))
            state = body()
            if flow_run and (collect := getattr(flow_run.task_runner, "collect", None)):
                collect()  # the log lines of task runs that this one submitted go home with its own
            return state


@functools.lru_cache(maxsize=KEPT)
def _kept_flow_run(reference: Any) -> KeptFlowRun:
    import ray

    return KeptFlowRun(ray.get(reference))


@functools.lru_cache(maxsize=KEPT)
def _kept_task(reference: Any) -> "Task[..., Any]":
    import ray

    return ray.get(reference)


_outbox = Outbox()


def outbox_here() -> Outbox | None:
    """The outbox of this process, if it is a worker that runs a task; what nested task runs leave goes home through it."""
    return _outbox if _outbox.is_collecting else None


class RunLogFilter(logging.Filter):
    """Lets what a thread outside of any run logs belong to a flow run, when one is named; else it belongs to none."""

    def __init__(self) -> None:
        super().__init__()
        self.flow_run_id: UUID | str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        from prefect.context import FlowRunContext, TaskRunContext

        if hasattr(record, "flow_run_id") or FlowRunContext.get() or TaskRunContext.get():
            return True
        record.flow_run_id = self.flow_run_id
        return self.flow_run_id is not None


run_log_filter = RunLogFilter()


def attach_run_log(flow_run_id: UUID | str | None = None) -> None:
    """Let what rayworks logs (``logging.getLogger(__name__)``) appear in the log of the Prefect run that it works for.

    Args:
        flow_run_id: The flow run that threads outside of a run work for, such as those that watch a cluster.
    """
    from prefect.logging.handlers import APILogHandler

    run_log_filter.flow_run_id = flow_run_id or run_log_filter.flow_run_id
    logger = logging.getLogger("rayworks")
    if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        handler = APILogHandler()
        handler.addFilter(run_log_filter)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
