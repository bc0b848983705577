"""The ledger of a watch: which objects arrived in which batch, and what became of each batch.

It is the truth about arrivals: events and schedules only say when to look at it. Each fact is a file of its own that is
created if it is absent and never changed, so that several watchers, and processes that are killed at any point, agree:
``000003.batch.json``, ``000003.attempt-0001.json``, ``000003.result.json``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from rayworks import storage
from rayworks.records import Record, SourceFile

RecordT = TypeVar("RecordT", bound=Record)
BATCH, RESULT = "batch", "result"


class Batch(Record):
    """Objects that arrived together."""

    number: int
    objects: tuple[SourceFile, ...]
    created: datetime


class Attempt(Record):
    """A flow run that was started for a batch."""

    batch: int
    number: int
    flow_run_id: str
    started: datetime


class BatchResult(Record):
    """How a batch ended. ``history`` was there at the first look, and starts nothing; what was ``skipped`` was not
    worth a training, and later ones learn from it."""

    batch: int
    state: Literal["done", "skipped", "failed", "history"]
    reason: str = ""
    ended: datetime


@dataclass(frozen=True)
class RunState:
    """The state of the flow run of an attempt. ``ended`` is when it became final."""

    kind: Literal["active", "completed", "failed", "cancelled"]
    message: str = ""
    ended: datetime | None = None


@dataclass(frozen=True)
class Ledger:
    """All facts about a watch, as they were when it was read."""

    batches: tuple[Batch, ...] = ()
    attempts: dict[int, tuple[Attempt, ...]] = field(default_factory=dict[int, tuple[Attempt, ...]])
    """By the number of the batch, in order."""
    results: dict[int, BatchResult] = field(default_factory=dict[int, BatchResult])

    @property
    def open_batch(self) -> Batch | None:
        """The batch without a result. There is one at most."""
        return next((batch for batch in self.batches if batch.number not in self.results), None)

    @property
    def known(self) -> frozenset[SourceFile]:
        """All objects of all batches. An object that is overwritten is another one."""
        return frozenset(file for batch in self.batches for file in batch.objects)


def location(storage_uri: str, watch: str) -> str:
    """Return the folder of a watch's ledger."""
    return storage.join(storage.absolute(storage_uri), "arrivals", watch)


def read(uri: str) -> Ledger:
    """Return the ledger in the folder ``uri``; an empty one if there is none yet.

    Raises:
        StorageError: The storage does not respond, or a file is not of a ledger.
    """
    files = sorted(file for file, _ in storage.files_in(uri))  # none if a look was killed at its first fact
    attempts: dict[int, tuple[Attempt, ...]] = {}
    for attempt in _records(files, "attempt-", Attempt):
        attempts[attempt.batch] = (*attempts.get(attempt.batch, ()), attempt)
    results = {result.batch: result for result in _records(files, RESULT, BatchResult)}
    return Ledger(tuple(_records(files, BATCH, Batch)), attempts, results)


def _records(files: list[str], kind: str, record: type[RecordT]) -> Iterable[RecordT]:
    return (storage.read_record(file, record) for file in files if f".{kind}" in file.rpartition("/")[2])


def add(uri: str, fact: Batch | Attempt | BatchResult) -> bool:
    """Add a fact to the ledger in the folder ``uri``, and return whether it was added: False if another one is there.

    Raises:
        StorageError: It cannot be written.
    """
    if isinstance(fact, Batch):
        name = f"{fact.number:06}.{BATCH}"
    elif isinstance(fact, Attempt):
        name = f"{fact.batch:06}.attempt-{fact.number:04}"
    else:
        name = f"{fact.batch:06}.{RESULT}"
    return storage.create(storage.join(uri, f"{name}.json"), fact.model_dump_json(indent=1).encode())
