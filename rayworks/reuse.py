"""Find the result of a stage, or create it: a stage that ran on the same inputs does not run again.

The result has a location derived from a fingerprint of everything it depends on, and its record is written last. So
reuse, resuming and repairing are the same thing, need no server, and never return what was deleted.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel

from rayworks import storage
from rayworks.progress import Progress, silent

KEY_LENGTH = 12


class StageRecord(Protocol):
    """What a stage returns: a record that says where the result is."""

    @property
    def uri(self) -> str: ...


RecordT = TypeVar("RecordT", bound=StageRecord)
StoredT = TypeVar("StoredT", bound=BaseModel)


@dataclass(frozen=True)
class Stage(Generic[RecordT]):
    """A stage on given inputs.

    Args:
        find: Returns the record of the result if it exists, else None. Cheap.
        create: Creates the result, reports its progress, and returns the record.
    """

    find: Callable[[], RecordT | None]
    create: Callable[[Progress], RecordT]

    def run(self, progress: Progress = silent) -> RecordT:
        """Find the result, or create it."""
        record = self.find()
        return self.create(progress) if record is None else record


def find_record(uri: str, kind: type[StoredT]) -> StoredT | None:
    """Return the record stored at ``uri``, or None if nothing is stored there.

    Raises:
        StorageError: It cannot be read, or is not a record of this kind.
    """
    return storage.read_record(uri, kind) if storage.exists(uri) else None


def location(storage_uri: str, folder: str, name: str, fingerprint: str) -> str:
    """Return the URI of the result with this fingerprint, whether it exists or not."""
    return storage.join(storage.absolute(storage_uri), folder, f"{name}-{fingerprint[:KEY_LENGTH]}")


def digest(*facts: object) -> str:
    """Return a fingerprint of ``facts``: a text that changes when one of them does."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()
