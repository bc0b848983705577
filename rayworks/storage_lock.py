"""A lock on the storage: one holder at a time, among all processes that use the same storage.

The lock is a folder of numbered files, of which the highest counts: it says until when the lock is held at the latest,
so that the lock of a killed process does not stay. Whoever creates the next number holds the lock, and releases it by
the number after that. No file is changed, and none is deleted before there is a higher one: a process whose list of
files is old finds out. The clocks of all machines must agree within a few seconds.
"""

import contextlib
import os
import socket
import time
from collections.abc import Generator
from dataclasses import dataclass

from pydantic import BaseModel

from rayworks import storage
from rayworks.errors import StorageError

HOLD_SECONDS = 120
"""How long a lock may be held. A holder that is killed blocks others for as long."""
WAIT_SECONDS = 180
"""How long to wait for the lock."""
POLL_SECONDS = 0.2


class Holder(BaseModel):
    """Who holds a lock, as it is stored."""

    name: str
    """Host and process."""
    until: float
    """When that ends, in seconds since 1970. 0 when the lock was released."""


@dataclass(frozen=True)
class Lock:
    """A lock that is held."""

    uri: str
    number: int
    until: float

    def check(self) -> None:
        """Raise ``StorageError`` if it was held for too long. Call it before what nobody else may do meanwhile."""
        if time.time() >= self.until:
            raise StorageError(
                f"a lock was held for more than {HOLD_SECONDS} s, and others may hold it now",
                where=self.uri,
                remedy="Run it again, and check that storage and registry respond in time",
            )


@contextlib.contextmanager
def held(uri: str) -> Generator[Lock]:
    """Hold the lock in the folder ``uri`` while the block runs; wait for it up to ``WAIT_SECONDS``.

    Raises:
        StorageError: Somebody else holds it, or the storage does not respond.
    """
    lock = _acquire(uri)
    try:
        yield lock
    finally:
        _create(uri, lock.number + 1, until=0)
        storage.delete(_file(uri, lock.number))


def _acquire(uri: str) -> Lock:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        numbers = _numbers(uri)
        holder = _holder(_file(uri, numbers[-1])) if numbers else None
        if holder is None or holder.until <= time.time():
            number, until = numbers[-1] + 1 if numbers else 1, time.time() + HOLD_SECONDS
            if _create(uri, number, until):
                if max(_numbers(uri)) == number:
                    for earlier in numbers:
                        storage.delete(_file(uri, earlier))
                    return Lock(uri, number, until)
                # The list was old: others have taken this number and the next meanwhile, and deleted this one.
                storage.delete(_file(uri, number))
        elif time.monotonic() > deadline:
            raise StorageError(
                "another process holds the lock",
                where=uri,
                detail=f"{holder.name}, until {time.strftime('%H:%M:%S', time.gmtime(holder.until))} UTC",
                remedy="Try again when it has ended",
            )
        time.sleep(POLL_SECONDS)


def _create(uri: str, number: int, until: float) -> bool:
    holder = Holder(name=f"{socket.gethostname()}, process {os.getpid()}", until=until)
    return storage.create(_file(uri, number), holder.model_dump_json().encode())


def _numbers(uri: str) -> list[int]:
    if not storage.exists(uri):
        return []
    try:
        return [int(file.rpartition("/")[2].removesuffix(".json")) for file, _ in storage.list_files(uri)]
    except StorageError:
        if storage.exists(uri):  # an empty folder
            return []
        raise


def _holder(file: str) -> Holder | None:
    """Return who holds the lock by a file. None if the file was deleted, by a later holder."""
    try:
        return storage.read_record(file, Holder)
    except StorageError as error:
        # Not only whether it exists now: a process whose list is old may create it again for a moment.
        if isinstance(error.__cause__, FileNotFoundError) or not storage.exists(file):
            return None
        raise


def _file(uri: str, number: int) -> str:
    return storage.join(uri, f"{number:09}.json")
