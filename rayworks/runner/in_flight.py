"""The task runs that a runner has on Ray: what they report comes home, and what is left at the end is cancelled."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rayworks.runner.outbox import Outbox

GRACE_SECONDS = 3.0
"""How long a cancelled task may take to report its end, before its process is killed."""
COLLECT_SECONDS = 0.5
"""How often finished task runs are looked for."""


@dataclass(frozen=True)
class Call:
    """One task run on Ray."""

    task: Any
    task_run_id: UUID
    state: Any
    """Reference to its last state."""
    ending: Any
    """Reference to its :class:`~rayworks.runner.worker.Ending`."""


class InFlight:
    """The task runs of one runner, from their submit until what they report is in ``outbox``."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._calls: dict[Any, Call] = {}  # by the reference to their endings
        self.recorded = 0
        """Task runs that ended in a final state, which the Prefect API is to show."""
        self.lost: list[tuple[Call, Exception | None]] = []
        """Those that left no state: their processes died, they were cancelled, or Ray could not run them; and what Ray said."""
        self.cancelled: list[Call] = []
        """Those that had not ended when the runner did; some of them may have told of their end after all."""
        self._collecting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        self._calls[call.ending] = call
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="rayworks-in-flight", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Bring home what has ended, and cancel what still runs with all that it started on Ray."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self.collect()
        self.cancelled = list(self._calls.values())
        if self.cancelled:
            _cancel([call.state for call in self.cancelled])
            self.collect()
            self._lose_the_rest()

    def abandon(self) -> None:
        """Give up what has not come home: the Ray that had it is gone."""
        self._stopping.set()
        self._lose_the_rest()

    def _lose_the_rest(self) -> None:
        self.lost += [(call, None) for call in self._calls.values()]

    def _watch(self) -> None:
        while not self._stopping.wait(COLLECT_SECONDS):
            self.collect()

    def collect(self) -> None:
        """Bring home what the task runs that have ended left to be sent. Any thread may call it."""
        import ray

        with self._collecting:
            references = list(self._calls)
            if not references:
                return
            finished, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in finished:
                call = self._calls.pop(reference)
                try:
                    ending = ray.get(reference)
                except Exception as error:
                    self.lost.append((call, error))
                else:
                    self.recorded += ending.is_final
                    self._outbox.add(ending.mail)


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
