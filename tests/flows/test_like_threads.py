"""What Prefect documents of tasks holds on Ray as it does on threads: states, retries, hooks, caching, transactions."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_run_logger, runtime, tags, task
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import get_run_context
from prefect.futures import as_completed
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed, State

from rayworks import RayTaskRunner
from tests.flows.flow_runs import Run, fail, log_line, nap, note, task_runs

pytestmark = pytest.mark.usefixtures("ray_for_flows")

# States


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [(Failed, "Failed", "no good"), (Cancelled, "Cancelled", "stop"), (Completed, "Skipped", "not needed")],
    ids=["failed", "cancelled", "completed with a name"],
)
def test_a_task_may_return_its_state(
    run: Run, client: SyncPrefectClient, kind: Callable[..., State[Any]], name: str, message: str
):
    @task
    def decide() -> State[Any]:
        return kind(name=name, message=message)

    def body() -> tuple[str, str]:
        future = decide.submit()
        future.wait()
        return future.state.name, future.state.message

    state = run(body)
    assert state.result() == (name, message)
    assert task_runs(client, state, 1)[0]["state_name"] == name


def test_the_items_of_a_generator_are_the_result_of_its_task(run: Run):
    @task
    def count() -> Iterator[int]:
        yield 1
        yield 2

    assert run(lambda: list(count.submit().result())).result() == [1, 2]


def test_the_items_of_an_async_generator_are_the_result_of_its_task_on_ray(ray_for_flows: None):
    @task
    async def count() -> AsyncIterator[int]:
        yield 1
        yield 2

    state = flow(task_runner=RayTaskRunner())(lambda: count.submit().result())(return_state=True)
    assert state.result() == [1, 2]


def test_a_task_waits_for_no_failure_and_is_not_ready_after_one(run: Run):
    def body() -> str:
        future = nap.submit(0, wait_for=[fail.submit()])
        future.wait()
        return future.state.name

    assert run(body).result() == "NotReady"


def test_the_futures_of_a_flow_decide_its_state(run: Run):
    state = run(lambda: [nap.submit(0), fail.submit()])
    assert state.is_failed()
    assert "1/2 states failed" in str(state.message)


def test_futures_come_in_the_order_in_which_they_complete(run: Run):
    def body() -> list[bool]:
        [slow, fast] = nap.submit(3), nap.submit(0)
        return [future is fast for future in as_completed([slow, fast])]

    assert run(body).result() == [True, False]


# Retries, hooks, context, logs


def test_a_condition_decides_whether_a_task_is_retried(run: Run, notes: Path):
    def is_worth_it(_task: Any, _run: Any, state: State[Any]) -> bool:
        return isinstance(state.result(raise_on_failure=False), ValueError)

    @task(retries=5, retry_delay_seconds=[0.1, 0.1], retry_condition_fn=is_worth_it)
    def attempt() -> None:
        note(notes, "try")
        raise ValueError if notes.read_text().count("try") < 3 else KeyError

    assert run(lambda: attempt.submit().result()).is_failed()
    assert notes.read_text() == "try try try "


def test_hooks_of_a_task_are_called_with_its_state(run: Run, notes: Path):
    def noted(hook: str) -> Callable[..., None]:
        return lambda _task, _run, state: note(notes, f"{hook}:{state.type.value}")

    @task(on_completion=[noted("completion")], on_running=[noted("running")])
    def succeed() -> None:
        note(notes, "body")

    def body() -> None:
        succeed.submit().wait()
        fail.with_options(on_failure=[noted("failure")]).submit().wait()

    run(body)
    assert notes.read_text() == "running:RUNNING body completion:COMPLETED failure:FAILED "


def test_a_task_run_knows_its_name_parameters_tags_and_flow_run(run: Run):
    @task(task_run_name="add {a} to {b}", tags=["own"])
    def describe(a: int, b: int) -> dict[str, Any]:
        context = get_run_context()
        return {
            "name": runtime.task_run.name,
            "parameters": dict(runtime.task_run.parameters),
            "tags": sorted(context.task_run.tags),
            "flow": runtime.flow_run.flow_name,
        }

    def body() -> dict[str, Any]:
        with tags("around"):
            return describe.submit(1, b=2).result()

    expected = {"name": "add 1 to 2", "parameters": {"a": 1, "b": 2}, "tags": ["around", "own"], "flow": "tested"}
    assert run(body).result() == expected


def test_what_a_task_prints_and_logs_is_in_the_log(run: Run, client: SyncPrefectClient):
    @task(log_prints=True)
    def speak() -> None:
        print("a printed line")  # noqa: T201
        get_run_logger().warning("a warning")

    state = run(lambda: speak.submit().wait())
    assert log_line(client, state, "a printed line")["level"] == 20
    assert log_line(client, state, "a warning")["level"] == 30


# Results


def test_a_result_is_stored_under_its_key_by_its_serializer(run: Run):
    key = uuid4().hex

    @task(persist_result=True, result_storage_key=key + "-{parameters[name]}.json", result_serializer="json")
    def record(name: str) -> dict[str, str]:
        return {"name": name}

    assert run(lambda: record.submit("first").result()).result() == {"name": "first"}
    folder = get_current_settings().results.local_storage_path
    assert "first" in (folder / f"{key}-first.json").read_text()


def test_a_cache_may_be_refreshed_and_depend_on_the_source(run: Run, notes: Path):
    salt = uuid4().hex

    @task(persist_result=True, cache_policy=TASK_SOURCE + INPUTS)
    def work(_: str) -> None:
        note(notes, "work")

    def body() -> None:
        work.submit(salt).wait()
        work.submit(salt).wait()
        work(salt)  # in the process of the flow
        work.with_options(refresh_cache=True).submit(salt).wait()

    run(body)
    assert notes.read_text() == "work work "
