"""What Prefect documents of tasks holds on Ray as it does on threads: states, retries, hooks, caching, transactions."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_run_logger, runtime, tags, task
from prefect.cache_policies import INPUTS, TASK_SOURCE, CacheKeyFnPolicy
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import get_run_context
from prefect.futures import as_completed
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.transactions import get_transaction, transaction

from rayworks import RayTaskRunner, resources
from tests.flows.flow_runs import log_line, nap, task_name, task_runs
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")

Run = Callable[[Callable[[], Any]], State[Any]]


@pytest.fixture(params=[ThreadPoolTaskRunner, RayTaskRunner], ids=["threads", "ray"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a function as a flow, and returns the flow run's last state."""

    def run_as_flow(body: Callable[[], Any]) -> State[Any]:
        return flow(task_runner=request.param(), name="tested")(body)(return_state=True)

    return run_as_flow


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A file to which :func:`note` appends."""
    (tmp_path / "notes").touch()
    return tmp_path / "notes"


def note(file: Path, word: str) -> None:
    with file.open("a") as notes:
        notes.write(f"{word} ")


@task
def fail() -> None:
    raise ValueError("an error of the task")


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


# Transactions


class Undoable:
    """A task that writes a word, with hooks that write what becomes of it, and a task that fails afterwards."""

    def __init__(self, notes: Path, **options: Any) -> None:
        self.notes = notes

        @task(name="work", **options)
        def work() -> None:
            get_transaction().set("word", "stored")
            note(notes, "work")

        work.on_rollback(lambda txn: note(notes, f"undo:{txn.get('word')}"))
        work.on_commit(lambda txn: note(notes, f"commit:{txn.get('word')}"))
        self.work = work

    def words(self) -> list[str]:
        return self.notes.read_text().split()


def test_a_failure_in_a_transaction_rolls_back_what_was_done_in_it(run: Run, client: SyncPrefectClient, notes: Path):
    undoable = Undoable(notes)

    def body() -> None:
        with transaction():
            undoable.work.submit().result()
            fail.submit().result()

    state = run(body)
    assert undoable.words() == ["work", "undo:stored"]
    by_name = {task_name(task_run): task_run["state_name"] for task_run in task_runs(client, state, 2)}
    assert by_name["fail"] == "Failed"

    def is_rolled_back() -> bool:
        return "RolledBack" in [task_run["state_name"] for task_run in task_runs(client, state, 2)]

    eventually(is_rolled_back)


def test_a_failure_that_the_flow_handles_rolls_back_the_transaction_too(run: Run, notes: Path):
    undoable = Undoable(notes)

    def body() -> None:
        with transaction():
            undoable.work.submit().wait()
            fail.submit().wait()

    assert run(body).is_completed()
    assert undoable.words() == ["work", "undo:stored"]


def test_a_transaction_commits_at_its_end(run: Run, notes: Path):
    undoable = Undoable(notes)

    def body() -> None:
        with transaction():
            undoable.work.submit().wait()
            note(notes, "inside")
        note(notes, "after")

    run(body)
    assert undoable.words() == ["work", "inside", "commit:stored", "after"]


def test_a_task_reads_the_values_of_the_transactions_around_its_submit(run: Run):
    @task
    def read() -> tuple[str, str]:
        return get_transaction().get("outer"), get_transaction().get("inner")

    def body() -> tuple[str, str]:
        with transaction() as outer:
            outer.set("outer", "1")
            with transaction() as inner:
                inner.set("inner", "2")
                return read.submit().result()

    assert run(body).result() == ("1", "2")


def test_a_result_is_cached_only_when_its_transaction_commits(run: Run, notes: Path):
    key = uuid4().hex
    undoable = Undoable(notes, persist_result=True, cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda *_: key))

    def body() -> None:
        try:
            with transaction():
                undoable.work.submit().result()
                fail.submit().result()
        except ValueError:
            pass
        with transaction():
            undoable.work.submit().result()
        undoable.work.submit().result()

    assert run(body).is_completed()
    assert undoable.words() == ["work", "undo:stored", "work", "commit:stored"]


def test_a_transaction_in_a_task_rolls_back_what_the_task_submitted(run: Run, notes: Path):
    undoable = Undoable(notes)

    @task
    def outer() -> None:
        with transaction():
            undoable.work.submit().result()
            raise ValueError

    assert run(lambda: outer.submit().result()).is_failed()
    assert undoable.words() == ["work", "undo:stored"]


def test_a_task_that_is_called_within_a_task_is_rolled_back_with_it(run: Run, notes: Path):
    undoable = Undoable(notes)

    @task
    def outer() -> None:
        undoable.work()

    def body() -> None:
        with transaction():
            outer.submit().result()
            fail.submit().result()

    assert run(body).is_failed()
    assert undoable.words() == ["work", "undo:stored"]


def test_async_tasks_take_part_in_a_transaction(run: Run, notes: Path):
    @task
    async def work() -> None:
        await asyncio.sleep(0)
        note(notes, "work")

    work.on_rollback(lambda _: note(notes, "undo"))

    def body() -> None:
        with transaction():
            work.submit().result()
            fail.submit().result()

    run(body)
    assert notes.read_text() == "work undo "


def test_a_crash_in_a_transaction_rolls_back_what_was_done_in_it(ray_for_flows: None, notes: Path):
    undoable = Undoable(notes)

    @task
    @resources(max_retries=0)
    def crash() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def body() -> None:
        with transaction():
            undoable.work.submit().result()
            crash.submit().result()

    assert not flow(task_runner=RayTaskRunner())(body)(return_state=True).is_completed()
    assert undoable.words() == ["work", "undo:stored"]


def test_a_task_run_that_has_not_ended_is_rolled_back_when_it_has(ray_for_flows: None, notes: Path):
    undoable = Undoable(notes)

    @task
    def slow() -> None:
        note(notes, "started")
        time.sleep(1)
        note(notes, "ended")

    slow.on_rollback(lambda _: note(notes, "undo:slow"))

    def body() -> None:
        with transaction():
            slow.submit()
            eventually(lambda: "started" in undoable.words(), every=0.05)
            raise ValueError

    assert flow(task_runner=RayTaskRunner())(body)(return_state=True).is_failed()
    assert undoable.words() == ["started", "ended", "undo:slow"]
