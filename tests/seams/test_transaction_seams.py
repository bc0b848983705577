"""What ``rayworks/runner/transactions/_private.py`` uses of Prefect's transactions still works as it says."""

import asyncio
import contextvars
from typing import Any
from uuid import uuid4

import cloudpickle
from prefect import task
from prefect.transactions import CommitMode, Transaction, get_transaction, transaction

from rayworks.runner import _private as runner
from rayworks.runner import transactions
from rayworks.runner.transactions import _private
from tests.seams.conftest import Collected

CALLS: list[Any] = []


@task
def work() -> int:
    get_transaction().set("word", get_transaction().get("outer"))
    return 3


@work.on_rollback
def undo(txn: Transaction) -> None:
    CALLS.append(("undo", txn.get("word")))


@work.on_commit
def done(txn: Transaction) -> None:
    CALLS.append(("done", txn.get("word")))


def staged_in_another_context() -> tuple[Any, Any]:
    """What a task run stages under a stand-in, as it is sent, and the last state of the task run."""

    def run() -> tuple[Any, Any]:
        stand_in = transactions.enter_stand_in(transactions.Around({"outer": "stored"}, CommitMode.LAZY))
        assert get_transaction() is stand_in  # by `make_current`
        state = runner.run_task_to_state(
            work, run=asyncio.run, task_run_id=uuid4(), parameters={}, wait_for=None, dependencies=None
        )
        return cloudpickle.loads(cloudpickle.dumps(_private.staged(stand_in.children[-1]))), state

    return contextvars.copy_context().run(run)


def test_the_values_of_a_transaction_are_its_own_and_those_around_it():
    with transaction() as outer:
        outer.set("a", 1)
        outer.set("b", 1)
        with transaction() as inner:
            inner.set("b", 2)
            assert _private.values_of(inner) == {"a": 1, "b": 2}


def test_what_a_task_run_staged_is_rolled_back_by_whoever_takes_it_over(collected: Collected):
    parts, state = staged_in_another_context()
    taken = Transaction()
    _private.take_over(taken, parts, state.data)
    CALLS.clear()
    assert taken.is_staged()
    assert taken.rollback()
    assert CALLS == [("undo", "stored")]
    runner.wait_for_collected_events()
    names = [event.resource["prefect.state-name"] for event in collected.events if "task-run" in event.event]
    assert names[-1] == "RolledBack"


def test_what_a_task_run_staged_is_committed_by_whoever_takes_it_over(collected: Collected):
    parts, state = staged_in_another_context()
    taken = Transaction()
    _private.take_over(taken, parts, state.data)
    CALLS.clear()
    assert taken.commit()
    assert CALLS == [("done", "stored")]
