"""Transactions around submits commit and roll back on Ray as they do on threads."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import Task, flow, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.orchestration import SyncPrefectClient
from prefect.transactions import get_transaction, transaction

from rayworks import RayTaskRunner, resources
from tests.flows.flow_runs import Run, fail, note, task_name, task_runs
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


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


def task_that_takes(seconds: float, notes: Path) -> Task[[], None]:
    """Return a task that notes its start, and its end so many seconds later."""

    @task
    def slow() -> None:
        note(notes, "started")
        time.sleep(seconds)
        note(notes, "ended")

    return slow


def test_a_task_run_that_has_not_ended_is_rolled_back_when_it_has(ray_for_flows: None, notes: Path):
    undoable, slow = Undoable(notes), task_that_takes(1, notes)
    slow.on_rollback(lambda _: note(notes, "undo:slow"))

    def body() -> None:
        with transaction():
            slow.submit()
            eventually(lambda: "started" in undoable.words(), every=0.05)
            raise ValueError

    assert flow(task_runner=RayTaskRunner())(body)(return_state=True).is_failed()
    assert undoable.words() == ["started", "ended", "undo:slow"]


def test_a_flow_that_is_stopped_in_a_transaction_cancels_its_tasks_and_undoes_what_was_done(
    ray_for_flows: None, notes: Path
):
    undoable, slow = Undoable(notes), task_that_takes(60, notes)

    def body() -> None:
        with transaction():
            undoable.work.submit().wait()
            for _ in range(5):
                slow.submit()
            eventually(lambda: "started" in undoable.words(), every=0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow(task_runner=RayTaskRunner())(body)()
    assert "ended" not in undoable.words()
    assert undoable.words()[-1] == "undo:stored"
