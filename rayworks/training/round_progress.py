"""The progress of a training: a worker writes the last round to the storage, the coordinator shows it.

Through the storage, since Ray Train has no channel from the workers to the driver but reports, which cost a poll each.
"""

import contextlib
import logging
import threading
from collections.abc import Generator

from rayworks import reuse, storage
from rayworks.errors import StorageError
from rayworks.progress import Progress
from rayworks.records import Record

FILE = "rounds.json"
SECONDS = 2.0  # between two writes, and between two reads

logger = logging.getLogger(__name__)


class LastRound(Record):
    """The last round of a training."""

    round: int
    rounds: int
    """The most rounds of this pass."""
    validation: float | None
    """None in the refit, which learns from the validation rows too."""
    earlier: bool = False
    """Whether this pass learns from an earlier part of the training rows."""


def write(run_uri: str, last: LastRound) -> None:
    """Store the last round of the training at ``run_uri``."""
    storage.write_record(storage.join(run_uri, FILE), last)


@contextlib.contextmanager
def shown(run_uri: str, *, metric: str, progress: Progress) -> Generator[None]:
    """Show the last round of the training at ``run_uri`` until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS):
            try:
                last = reuse.find_record(storage.join(run_uri, FILE), LastRound)
            except StorageError as error:
                logger.warning("The progress of the training could not be read: %s", error)
                continue
            if last:
                progress(last.round / last.rounds, _in_words(last, metric))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _in_words(last: LastRound, metric: str) -> str:
    if last.validation is None:
        return f"round {last.round} of {last.rounds} on training and validation rows"
    rows = " on earlier rows" if last.earlier else ""
    return f"round {last.round} of at most {last.rounds}{rows}, validation {metric} {last.validation:.4g}"
