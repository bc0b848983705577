"""Flow runs in a Ray worker process: each is entered once, and closed when the process has too many of them.

What Prefect's engine sets up for a task run from another process (settings, HTTP clients and their TLS contexts, the
context of the flow run) is set up once for each worker process and flow run.
"""

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from rayworks.prefect_api.run_log import attach_run_log
from rayworks.runner import _private, transactions
from rayworks.runner.in_flight import Nested

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State
    from prefect.tasks import Task

    from rayworks.runner.worker import TaskCall

logger = logging.getLogger(__name__)

API_SECONDS = 180
"""How long the Prefect API may be away when a worker connects to it."""
RETRY_SECONDS = 1.0


class EnteredFlowRun:
    """The context of a flow run in this process. Each task run works in a copy of it.

    Args:
        serialized: The context, from ``_private.serialized_flow_run_context``.
    """

    def __init__(self, serialized: dict[str, Any]) -> None:
        self._context = contextvars.copy_context()
        self._stack = contextlib.ExitStack()
        self._loop = asyncio.Runner()
        self._async_client: Any = None
        self.staged: transactions.Staged | None = None
        """What the last task run staged in its transaction, if there is one around its submit."""
        self.id: UUID | None = None
        """The flow run's. None for a task that was submitted outside of any."""
        self.client: SyncPrefectClient = _once_the_api_responds(lambda: self._context.run(self._enter, serialized))

    def _enter(self, serialized: dict[str, Any]) -> "SyncPrefectClient":
        with contextlib.ExitStack() as entering:
            entering.enter_context(_private.flow_run_context_entered(serialized))
            self.id = _flow_run_id()
            attach_run_log()
            client = entering.enter_context(_private.sync_client_entered()).client
            self._stack = entering.pop_all()
        return client

    def close(self) -> None:
        """Exit the context, and close its HTTP clients, its event loop and its task runner."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._context.run, self._stack.close)
            closing.callback(self._loop.close)
            if self._async_client is not None:
                exiting = _private.exit_async_client(self._async_client)
                closing.callback(self._loop.run, exiting, context=self._context)

    def hand_over_nested(self) -> Nested | None:
        """Return the task runs that a task run, which has ended, has submitted. :meth:`close` would cancel them."""
        return self._context.run(_hand_over_nested)

    def run(self, call: "TaskCall", task: "Task[..., Any]", parameters: dict[str, Any]) -> "State[Any]":
        """Run one task run to its last state.

        Args:
            call: The task run.
            task: Its task.
            parameters: Its parameters, with values in place of Ray's references.
        """
        if task.isasync and self._async_client is None:  # it belongs to one event loop, so both stay open
            self._async_client = _once_the_api_responds(
                lambda: self._loop.run(_private.enter_async_client(), context=self._context)
            )
        run_task = functools.partial(
            _private.run_task_to_state,
            task,
            run=self._run_coroutine,
            task_run_id=call.task_run_id,
            parameters=parameters,
            wait_for=call.wait_for,
            dependencies=call.dependencies,
        )
        return self._context.copy().run(self._run_in_task_context, call, run_task)

    def _run_coroutine(self, coroutine: Any) -> Any:
        return self._loop.run(coroutine, context=contextvars.copy_context())

    def _run_in_task_context(self, call: "TaskCall", run_task: Callable[[], "State[Any]"]) -> "State[Any]":
        """Enter the contexts that belong to one task run only. Nothing of them stays for the next task run."""
        from prefect.context import AssetContext, FlowRunContext, TaskRunContext, tags

        with contextlib.ExitStack() as stack:
            if flow_run := FlowRunContext.get():
                stack.enter_context(_private.flow_run_context_for_task_run(flow_run))
            if call.parent_task_run:
                stack.enter_context(TaskRunContext(**call.parent_task_run, client=self.client))
            if call.tags:
                stack.enter_context(tags(*call.tags))
            stack.enter_context(AssetContext(**call.assets))
            around = transactions.enter_stand_in(call.transaction) if call.transaction else None
            state = run_task()
            self.staged = transactions.staged(around.children[-1]) if around and around.children else None
            return state


def _once_the_api_responds(enter: Callable[[], Any]) -> Any:
    """Return what ``enter`` returns, called again while the Prefect API is away.

    A worker connects to the API when it gets the first task of a flow run. A restart of the server at that moment must
    not fail the task run.
    """
    deadline = time.monotonic() + API_SECONDS
    while True:
        try:
            return enter()
        except RuntimeError as error:
            if _private.API_IS_AWAY not in str(error) or time.monotonic() > deadline:
                raise
            logger.warning("%s Trying again.", error)
            time.sleep(RETRY_SECONDS)


def _flow_run_id() -> "UUID | None":
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context.flow_run.id if context and context.flow_run else None


def _hand_over_nested() -> Nested | None:
    from prefect.context import FlowRunContext

    flow_run = FlowRunContext.get()
    hand_over = getattr(flow_run.task_runner, "hand_over", None) if flow_run else None
    return hand_over() if hand_over else None


class FlowRunCache:
    """The flow runs that this process has entered, at most ``size`` of them that are idle.

    A flow run is closed only when no task run of it is running here.

    Args:
        enter: Enters a flow run, given the reference to its serialized context.
        size: How many flow runs stay entered.
    """

    def __init__(self, enter: Callable[[Any], EnteredFlowRun], size: int) -> None:
        self._enter = enter
        self._size = size
        self._entered: dict[Any, EnteredFlowRun] = {}  # in the order of their last use
        self._uses: dict[Any, int] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, reference: Any) -> Generator[EnteredFlowRun]:
        """Return the flow run for the length of the block, entered before or now."""
        with self._lock:
            entered = self._entered.pop(reference, None) or self._enter(reference)
            self._entered[reference] = entered
            self._uses[reference] = self._uses.get(reference, 0) + 1
        try:
            yield entered
        finally:
            with self._lock:
                self._uses[reference] -= 1
                self._close_oldest()

    def _close_oldest(self) -> None:
        excess = len(self._entered) - self._size
        for reference, entered in list(self._entered.items()):
            if excess <= 0:
                return
            if not self._uses[reference]:
                del self._entered[reference], self._uses[reference]
                excess -= 1
                try:
                    entered.close()
                except Exception:  # the task run that has just ended here has nothing to do with it
                    logger.exception("A flow run could not be closed in its worker process")
