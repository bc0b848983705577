"""The worker's side of the runner: runs Prefect task runs in a Ray worker process.

What Prefect builds anew for each task run (settings, HTTP clients and their TLS contexts, the flow run's context) is
built once for each worker process and flow run, and the rest of a task run is Prefect's own engine.
"""

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import RunInput, State
    from prefect.tasks import Task

Log = dict[str, Any]
KEPT = 32
"""Flow runs and tasks that a worker process remembers."""
LOG_SECONDS = 1.0
"""How long a log line of a task that still runs waits to be sent."""


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
    lines: list[Log]
    """Log lines that are not sent yet: sending them from the worker would cost each short task a request."""


def run_task(*upstream: Any, call: TaskCall) -> "tuple[State[Any], Ending]":
    """Run one task run to its last state, which is final unless the task is paused or its upstream failed.

    Args:
        upstream: The results that ``call.parameters`` refers to; naming them makes Ray wait for them.
        call: The task run.
    """
    import ray
    from prefect.utilities.collections import visit_collection

    parameters = call.parameters
    if call.has_upstream:
        parameters = visit_collection(
            parameters,
            visit_fn=lambda value: ray.get(value) if isinstance(value, ray.ObjectRef) else value,
            return_data=True,
        )
    kept = _kept_flow_run(call.flow_run)
    task = _kept_task(call.task)
    _outbox.open(kept.client)
    state = kept.run(call, task, parameters)
    confirm_events()
    return state, Ending(state.is_final(), _outbox.take())


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


def confirm_events() -> None:
    """Return once the Prefect API has received every event that this process emitted: Ray may shut down right after."""
    from prefect._internal.concurrency.api import create_call, from_sync
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker

    worker = EventsWorker.instance()
    worker.wait_until_empty()
    client = getattr(worker, "_client", None)
    if isinstance(client, PrefectEventsClient):
        # Prefect itself confirms every 700 events or 30 s only, and has no public call for it.
        from_sync.call_soon_in_loop_thread(create_call(_confirm, client)).result()


async def _confirm(client: Any) -> None:
    if client._websocket is None and client._unconfirmed_events:
        await client._reconnect()
    if client._websocket is not None:
        await client._force_checkpoint()


class Outbox:
    """Log lines of this process on their way to the Prefect API.

    Those of a task that runs for long are sent as they come; those that are left when it ends go home with its result,
    and the driver sends the lines of many tasks in one request.
    """

    def __init__(self) -> None:
        self._lines: list[Log] = []
        self._lock = threading.Lock()
        self._client: SyncPrefectClient | None = None
        self._thread: threading.Thread | None = None

    def open(self, client: "SyncPrefectClient") -> None:
        """Collect the lines of this process from now on, and send old ones through ``client``."""
        from prefect.logging.handlers import set_api_log_sink

        self._client = client
        if self._thread is None:
            set_api_log_sink(self._put)
            self._thread = threading.Thread(target=self._send_old, name="rayworks-logs", daemon=True)
            self._thread.start()

    def take(self) -> list[Log]:
        """The lines that are not sent yet; they are the caller's now."""
        with self._lock:
            lines, self._lines = self._lines, []
        return lines

    def _put(self, line: Log) -> None:
        with self._lock:
            self._lines.append(line)

    def _send_old(self) -> None:
        while True:
            time.sleep(LOG_SECONDS)
            if (client := self._client) is not None and (lines := self.take()):
                send_logs(client, lines)


_outbox = Outbox()


def send_logs(client: "SyncPrefectClient", lines: list[Log]) -> None:
    """Send log lines to the Prefect API; those that cannot be sent are printed, never lost in silence."""
    try:
        for line in lines:
            line.pop("__payload_size__", None)
        client.create_logs(lines)
    except Exception as error:
        logging.getLogger("rayworks.runner").error("Log lines could not be sent: %s", error, extra={"send_to_api": False})


def attach_run_log() -> None:
    """Let what rayworks logs (``logging.getLogger(__name__)``) appear in the log of the Prefect run that it works for."""
    from prefect.logging.handlers import APILogHandler

    logger = logging.getLogger("rayworks")
    if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        logger.addHandler(APILogHandler())
        logger.setLevel(logging.INFO)
