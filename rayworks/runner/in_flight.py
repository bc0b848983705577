"""The task runs that a runner has on Ray: collects what they report, and cancels what still runs at the end."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    def end(self) -> None:
        """Collect what has ended, and cancel what still runs together with all that it started on Ray."""
        self._stop_collecting()
        self.collect()
        self.unfinished = list(self._task_runs.values())
        if self.unfinished:
            cancel([task_run.state for task_run in self.unfinished])
            self.collect()
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
        import ray

        with self._collecting:
            references = list(self._task_runs)
            if not references:
                return
            finished, _ = ray.wait(references, num_returns=len(references), timeout=0)
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
