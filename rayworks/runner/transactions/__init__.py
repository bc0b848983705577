"""Prefect transactions around submits: what a task run did on Ray is committed or rolled back with the transaction.

On threads, a task run's own transaction is a child of the one around its submit. Here it runs in another process. It
is staged there under a stand-in, and what commits it or rolls it back returns with the end of the task run.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.context import TaskRunContext
from prefect.transactions import CommitMode, Transaction, TransactionState, get_transaction
from pydantic import PrivateAttr

from rayworks.errors import first_line
from rayworks.runner.in_flight import cancel
from rayworks.runner.transactions import _private
from rayworks.runner.transactions._private import Staged, staged

if TYPE_CHECKING:
    from rayworks.runner.worker import TaskRunEnd

logger = logging.getLogger(__name__)

__all__ = ["Around", "OfTaskRun", "Staged", "StandIn", "around_submit", "as_sent", "enrol", "enter_stand_in", "staged"]


@dataclass(frozen=True)
class Around:
    """What a task run gets to know of the transaction around its submit."""

    values: dict[str, Any]
    """What was set in it, and in the transactions around it."""
    commit_mode: CommitMode | None


class StandIn(Transaction):
    """Takes the place of the transaction around a submit, in the process of the task run. Nobody ends it."""


class OfTaskRun(Transaction):
    """The transaction of a task run on Ray, as a child of the one around its submit."""

    _reference: Any = PrivateAttr()
    _end: "Callable[[], tuple[TaskRunEnd, Any]]" = PrivateAttr()
    _siblings: "list[Any]" = PrivateAttr()
    _is_resolved: bool = PrivateAttr(default=False)

    def bind(self, reference: Any, end: "Callable[[], tuple[TaskRunEnd, Any]]", siblings: "list[Any]") -> None:
        """Set Ray's reference to the last state of the task run, how to get its end, and itself with its siblings."""
        self._reference, self._end, self._siblings = reference, end, siblings

    def resolve(self) -> None:
        """Wait for the end of the task run, and take over what it staged."""
        if self._is_resolved:
            return
        self._is_resolved, self.state = True, TransactionState.ROLLED_BACK
        try:
            end, data = self._end()
        except Exception as error:  # its process died, or Ray has ended: it staged nothing
            logger.warning("A task run within a transaction crashed: %s", first_line(error))
            return
        if end.transaction is not None:
            _private.take_over(self, end.transaction, data)

    def commit(self) -> bool:
        """Commit it, if no task run of the same transaction failed: otherwise all of them are rolled back."""
        if not self._is_resolved:  # the first child that commits looks at all of them
            for sibling in self._siblings:
                if isinstance(sibling, OfTaskRun):
                    sibling.resolve()
                    if sibling.is_rolled_back():
                        raise RuntimeError("a task run within the transaction failed, so all of it is rolled back")
        return super().commit()

    def rollback(self) -> bool:
        """Roll it back once the task run has ended. What still runs is cancelled if the flow is stopped."""
        if not self._is_resolved and _flow_is_stopped():  # the first child that rolls back cancels all of them at once
            unresolved = [child for child in self._siblings if isinstance(child, OfTaskRun) and not child._is_resolved]
            cancel([child._reference for child in unresolved])
            for child in unresolved:
                child.resolve()
        self.resolve()
        return super().rollback()


def _flow_is_stopped() -> bool:
    """Return whether Ctrl-C, *Cancel* or a time limit ends the transaction. After an error, tasks are waited for."""
    reason = sys.exception()
    return reason is not None and not isinstance(reason, Exception)


def around_submit() -> Transaction | None:
    """Return the user's transaction around the caller; None if there is none.

    A task's own transaction is none of the user's: what the task submits ends on its own.
    """
    transaction: Any = get_transaction()
    if transaction is None or isinstance(transaction, StandIn):
        return None
    parent = transaction.get_parent()
    is_of_task = TaskRunContext.get() is not None and (parent is None or isinstance(parent, StandIn))
    return None if is_of_task else transaction


def as_sent(transaction: Transaction) -> Around:
    """Return what a worker gets of a transaction."""
    return Around(_private.values_of(transaction), transaction.commit_mode)


def enrol(transaction: Transaction, reference: Any, end: "Callable[[], tuple[TaskRunEnd, Any]]") -> None:
    """Make a submitted task run a part of a transaction.

    Args:
        transaction: The one around the submit.
        reference: Ray's reference to the last state of the task run.
        end: Waits for the end of the task run, and returns it with the data of the last state.
    """
    child = OfTaskRun()
    child.bind(reference, end, transaction.children)
    transaction.add_child(child)


def enter_stand_in(around: Around) -> StandIn:
    """Make a stand-in the current transaction of this context, and return it."""
    stand_in = StandIn(commit_mode=around.commit_mode)
    for name, value in around.values.items():
        stand_in.set(name, value)
    _private.make_current(stand_in)
    return stand_in
