"""The task runs that a runner has on Ray: their log lines come home, and what is left at the end is cancelled."""

import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID

GRACE_SECONDS = 3.0
"""How long a cancelled task may take to report its end, before its process is killed."""
COLLECT_SECONDS = 0.5
"""How often finished task runs are looked for."""


class InFlight:
    """The task runs of one runner, from their submit until their log lines are home."""

    def __init__(self) -> None:
        self._calls: dict[UUID, tuple[Any, Any]] = {}
        self._lost: list[UUID] = []
        self.recorded = 0
        """Task runs that ended in a final state, which the Prefect API is to show."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, task_run_id: UUID, state: Any, ending: Any) -> None:
        """Watch one task run: references to its state and to its :class:`~rayworks.runner_worker.Ending`."""
        self._calls[task_run_id] = (state, ending)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="rayworks-in-flight", daemon=True)
            self._thread.start()

    def end(self) -> tuple[int, list[UUID]]:
        """Cancel what still runs, with all that it started on Ray, and bring the last log lines home.

        Returns:
            How many task runs were cancelled, and those that ended without a state: cancelled, killed or crashed.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self.collect()
        cancelled = list(self._calls)
        if cancelled:
            _cancel([state for state, _ in self._calls.values()])
            self.collect()
        return len(cancelled), self._lost + list(self._calls)

    def _watch(self) -> None:
        while not self._stopping.wait(COLLECT_SECONDS):
            self.collect()

    def collect(self) -> None:
        """Bring home what the task runs that have ended left to be sent."""
        import ray
        from prefect.logging.handlers import emit_api_log

        owners = {ending: task_run_id for task_run_id, (_, ending) in list(self._calls.items())}
        if not owners:
            return
        finished, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        for reference in finished:
            try:
                ending = ray.get(reference)
                self.recorded += ending.is_final
                for line in ending.lines:
                    emit_api_log(line)
            except Exception:  # whatever ended it, its future tells; here it only has no lines
                self._lost.append(owners[reference])
            del self._calls[owners[reference]]


def _cancel(states: Sequence[Any]) -> None:
    """Cancel Ray tasks and their children: first so that they can report it, then by ending their processes."""
    import ray

    waiting = list(reversed(states))  # the last first, so that none of those that wait starts meanwhile
    for force in (False, True):
        for state in waiting:
            ray.cancel(state, force=force, recursive=True)
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=GRACE_SECONDS)
        if not waiting:
            return
