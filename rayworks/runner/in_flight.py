"""The task runs that a runner has on Ray: collects what they report, and cancels what still runs at the end.

A task run may end before those that it has submitted. They are handed over to the runner that submitted it, and so at
last to that of the flow run, which they do not outlast.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rayworks.runner import stalls
from rayworks.runner.outbox import Outbox

if TYPE_CHECKING:
    from prefect.tasks import Task

GRACE_SECONDS = 3.0
"""How long a cancelled task may take to report its end before its process is killed."""
COLLECT_SECONDS = 0.5
"""How often finished task runs are collected."""


@dataclass(frozen=True)
class SubmittedTaskRun:
    """One task run on Ray."""

    task: "Task[..., Any]"
    id: UUID
    state: Any
    """Reference to its last state."""
    end: Any
    """Reference to its :class:`~rayworks.runner.worker.TaskRunEnd`."""
    requests: dict[str, float] = field(default_factory=dict[str, float])
    """What it requests of Ray."""
    upstream: tuple[Any, ...] = ()
    """References to the results that Ray waits for."""
    submitted: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Nested:
    """The task runs that a task run has submitted, when it has ended."""

    task_runs: tuple[SubmittedTaskRun, ...] = ()
    """Those that have not ended, or without a state."""
    recorded: int = 0
    """Number of those that ended in a final state."""


class InFlight:
    """The task runs of one runner, from their submit until their messages are in the outbox.

    Args:
        outbox: Gets the messages of the task runs that have ended.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.recorded = 0
        """Number of task runs that ended in a final state, which the Prefect API is to show."""
        self.crashed: list[tuple[SubmittedTaskRun, Exception | None]] = []
        """Task runs that ended without a state, and Ray's error.

        Their process died, they were cancelled, or Ray could not run them.
        """
        self.unfinished: list[SubmittedTaskRun] = []
        """Task runs that had not ended when the runner did. Some of them may have reported their end after all."""
        self.ended = 0
        """Number of task runs that ended, however they did."""
        self._outbox = outbox
        self._task_runs: dict[Any, SubmittedTaskRun] = {}  # by the reference to their end
        self._collecting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._task_runs)

    def add(self, task_run: SubmittedTaskRun) -> None:
        self._task_runs[task_run.end] = task_run
        if self._thread is None:
            self._thread = threading.Thread(target=self._collect_regularly, name="rayworks-in-flight", daemon=True)
            self._thread.start()

    def oldest(self) -> tuple[list[SubmittedTaskRun], int]:
        """Return the oldest task runs that no upstream result keeps waiting, and how many have ended."""
        with self._collecting:
            oldest = list(islice(self._task_runs.values(), 2 * stalls.OLDEST))
        return stalls.without_upstream(oldest), self.ended

    def hand_over(self) -> Nested | None:
        """Return what the runner of another task run is to go on with, if there is any, and forget it."""
        self.collect()
        if not (self._task_runs or self.crashed or self.recorded):
            return None
        with self._collecting:
            nested = Nested((*self._task_runs.values(), *(task_run for task_run, _ in self.crashed)), self.recorded)
            self._task_runs, self.crashed, self.recorded = {}, [], 0
        return nested

    def end(self) -> None:
        """Collect what has ended, and cancel what still runs together with all that it started on Ray."""
        self._stop_collecting()
        self.collect()
        cancelled: set[Any] = set()
        while running := {end: run for end, run in self._task_runs.items() if end not in cancelled}:
            self.unfinished += running.values()
            cancel([task_run.state for task_run in running.values()])
            cancelled |= running.keys()
            self.collect()  # which may hand over others
        self._count_rest_as_crashed()

    def abandon(self) -> None:
        """Count all task runs that were not collected as crashed: Ray has ended."""
        self._stopping.set()
        self.unfinished = list(self._task_runs.values())
        self._count_rest_as_crashed()

    def _count_rest_as_crashed(self) -> None:
        self.crashed += [(task_run, None) for task_run in self._task_runs.values()]

    def _stop_collecting(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _collect_regularly(self) -> None:
        while not self._stopping.wait(COLLECT_SECONDS):
            self.collect()

    def collect(self) -> None:
        """Put the messages of the task runs that have ended into the outbox. Any thread may call it."""
        with self._collecting:
            while self._collect_ended():
                pass  # what was handed over may have ended as well

    def _collect_ended(self) -> bool:
        """Collect what has ended, and return whether that handed over task runs."""
        import ray

        references = list(self._task_runs)
        finished, _ = ray.wait(references, num_returns=len(references), timeout=0) if references else ([], [])
        handed_over = 0
        for reference in finished:
            task_run = self._task_runs.pop(reference)
            self.ended += 1
            try:
                end = ray.get(reference)
            except Exception as error:
                self.crashed.append((task_run, error))
            else:
                self.recorded += end.is_final
                self._outbox.add(end.messages)
                if end.nested:
                    handed_over += self._take_over(end.nested)
        return handed_over > 0

    def _take_over(self, nested: Nested) -> int:
        """Go on with the task runs that a task run has submitted, and return how many have not ended."""
        self.recorded += nested.recorded
        for task_run in nested.task_runs:
            self.add(replace(task_run, submitted=time.monotonic()))  # it may come from a machine with another clock
        return len(nested.task_runs)


def cancel(states: Sequence[Any]) -> None:
    """Cancel Ray tasks and their children: first so that they can report it, then by killing their processes."""
    import ray

    pending = list(reversed(states))  # the last first, so that no task that waits for resources starts meanwhile
    for force in (False, True):
        for state in pending:
            ray.cancel(state, force=force, recursive=True)
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=GRACE_SECONDS)
        if not pending:
            return
