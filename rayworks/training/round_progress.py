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
    validation: float


def write(run_uri: str, round: int, validation: float) -> None:
    """Store the last round of the training at ``run_uri``."""
    storage.write_record(storage.join(run_uri, FILE), LastRound(round=round, validation=validation))


@contextlib.contextmanager
def shown(run_uri: str, *, rounds: int, metric: str, progress: Progress) -> Generator[None]:
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
                value = f"validation {metric} {last.validation:.4g}"
                progress(last.round / rounds, f"round {last.round} of at most {rounds}, {value}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
