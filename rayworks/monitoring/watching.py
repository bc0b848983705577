"""A look of a watch at its source: take every step that is due, one fact of the ledger after the other.

A look that is killed anywhere, or runs twice at a time, loses nothing and starts nothing twice: the next one takes the
step that is missing.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from rayworks.data.reading import Format
from rayworks.monitoring import arrivals, new_data
from rayworks.monitoring.arrivals import Attempt, Batch, BatchResult, Ledger, RunState
from rayworks.monitoring.new_data import Start, Wait
from rayworks.monitoring.options import WatchOptions


def look(
    uri: str,
    source: str,
    options: WatchOptions,
    *,
    file_format: Literal["auto"] | Format = "auto",
    start: Callable[[Batch, int], str],
    state: Callable[[str], RunState],
    failed: Callable[[BatchResult], None],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[str]:
    """Take all steps that are due, and return in words what was done, what is gone, and what is waited for.

    Args:
        uri: The folder of the ledger.
        source: A folder or a glob.
        file_format: As for ``process``.
        start: Starts the retraining of a batch and returns the id of its flow run; the same batch and attempt return
            the run that is there.
        state: Returns the state of that flow run.
        failed: Is called once a batch has failed.

    Raises:
        StorageError: The source cannot be listed.
    """
    said: list[str] = []
    while True:
        ledger = arrivals.read(uri)
        run = _last_run(ledger, state)
        if run and arrivals.read(uri) != ledger:
            continue  # the run, whose last act is to add its result, or another look has added a fact meanwhile
        objects = new_data.listed(source, file_format)
        step = new_data.next_step(ledger, objects, run, options, now())
        if isinstance(step, Wait):
            missing = new_data.missing(ledger, objects)
            gone = [f"{uri} is no longer there: retrainings go on without it" for uri in missing]
            return [*said, *gone, step.reason]
        if isinstance(step, Start):
            flow_run_id = start(step.batch, step.attempt)
            fact = Attempt(batch=step.batch.number, number=step.attempt, flow_run_id=flow_run_id, started=now())
        else:
            fact = step
        if arrivals.add(uri, fact):
            said.append(new_data.in_words(step))
            if isinstance(fact, BatchResult) and fact.state == "failed":
                failed(fact)


def _last_run(ledger: Ledger, state: Callable[[str], RunState]) -> RunState | None:
    """Return the state of the last attempt for the open batch."""
    attempts = ledger.attempts.get(ledger.open_batch.number) if ledger.open_batch else None
    return state(attempts[-1].flow_run_id) if attempts else None
