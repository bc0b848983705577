"""A worker process closes a flow run that it does not use any more: its HTTP clients, event loop and context."""

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, task
from prefect.context import AsyncClientContext, FlowRunContext

from rayworks import RayTaskRunner
from rayworks.runner import _private, flow_run_cache, serialization
from rayworks.runner.flow_run_cache import EnteredFlowRun, FlowRunCache
from rayworks.runner.worker import TaskCall
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


def serialized_flow_run() -> dict[str, Any]:
    """The context of a flow run, as a worker gets it."""

    @flow(task_runner=RayTaskRunner(), name="cached", persist_result=False)
    def serialize() -> None:
        contexts.append(serialization.serialized_flow_run(is_elsewhere=False))

    contexts: list[dict[str, Any]] = []
    serialize()
    return contexts[0]


def test_a_flow_run_is_entered_when_the_api_responds_again(monkeypatch: pytest.MonkeyPatch):
    failures = [RuntimeError("Failed to reach API at http://prefect-server:4200/api/")] * 2
    enter = _private.sync_client_entered

    def restarting() -> Any:
        if failures:
            raise failures.pop()
        return enter()

    monkeypatch.setattr(_private, "sync_client_entered", restarting)
    monkeypatch.setattr(flow_run_cache, "RETRY_SECONDS", 0.01)
    entered = EnteredFlowRun(serialized_flow_run())
    assert run(entered, lambda: 1) == 1
    entered.close()


def test_a_flow_run_is_not_entered_again_after_another_error(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> Any:
        raise RuntimeError("Found incompatible versions")

    monkeypatch.setattr(_private, "sync_client_entered", refuse)
    with pytest.raises(RuntimeError, match="Found incompatible versions"):
        EnteredFlowRun(serialized_flow_run())


@pytest.fixture
def cache() -> Generator[FlowRunCache]:
    """A cache for one flow run. The one that a test used last, and that the cache keeps, is closed after the test."""
    entered: list[EnteredFlowRun] = []

    def enter(_: Any) -> EnteredFlowRun:
        entered.append(EnteredFlowRun(serialized_flow_run()))
        return entered[-1]

    yield FlowRunCache(enter, size=1)
    entered[-1].close()


def run(flow_run: EnteredFlowRun, body: Callable[[], Any]) -> Any:
    """The result of a task run of ``body`` in the flow run."""
    tested, task_run_id = task(body), uuid4()
    call = TaskCall(
        flow_run=None,
        task=None,
        task_run_id=task_run_id,
        parameters={},
        wait_for=None,
        dependencies={},
        tags=frozenset(),
        parent_task_run={},
        assets=_private.serialized_asset_context(tested, task_run_id, {}),
    )
    return flow_run.run(call, tested, {}).result()


def test_a_flow_run_that_is_closed_has_closed_its_clients_and_its_event_loop(cache: FlowRunCache):
    of_async_tasks: list[Any] = []

    async def open_async_client() -> None:
        context = AsyncClientContext.get()
        assert context is not None
        of_async_tasks.extend([context.client, asyncio.get_running_loop()])

    async def start(client: Any) -> None:
        async with client:
            pass

    with cache.use("first") as first:
        assert run(first, lambda: 1) == 1
        run(first, open_async_client)
    assert first.client.api_healthcheck() is None
    with cache.use("second"):
        pass
    async_client, loop = of_async_tasks
    assert loop.is_closed()
    for start_again in (first.client.__enter__, lambda: asyncio.run(start(async_client))):
        with pytest.raises(RuntimeError, match="cannot be started again after closing"):
            start_again()
    with pytest.raises(RuntimeError, match="closed"):
        run(first, open_async_client)


def test_a_flow_run_that_is_closed_has_stopped_its_task_runner(cache: FlowRunCache):
    def task_runner() -> Any:
        context = FlowRunContext.get()
        assert context is not None
        return context.task_runner

    with cache.use("first") as first:
        runner = run(first, lambda: [task_runner()])[0]
        assert runner._started
    with cache.use("second"):
        pass
    assert not runner._started


def test_a_task_run_in_flight_is_not_harmed_when_its_flow_run_is_replaced(cache: FlowRunCache):
    running, may_end = threading.Event(), threading.Event()
    results: list[Any] = []

    def wait() -> Any:
        running.set()
        assert may_end.wait(60)
        context = FlowRunContext.get()
        assert context is not None
        return context.client is not None

    def use_first() -> None:
        with cache.use("first") as first:
            results.extend([run(first, wait), first, first.client.api_healthcheck()])

    thread = threading.Thread(target=use_first)
    thread.start()
    assert running.wait(60)
    with cache.use("second"):
        pass
    with cache.use("third"):
        pass
    may_end.set()
    thread.join(60)
    result, first, problem = results
    assert result is True
    assert problem is None
    with cache.use("second"):  # nothing uses the first one any more
        pass
    with pytest.raises(RuntimeError, match="cannot be started again after closing"):
        first.client.__enter__()


def test_a_flow_run_that_was_closed_is_entered_again(cache: FlowRunCache):
    for name in ("first", "second", "first"):
        with cache.use(name) as flow_run:
            assert run(flow_run, lambda: 1) == 1
            eventually(lambda flow_run=flow_run: flow_run.client.api_healthcheck() is None)
