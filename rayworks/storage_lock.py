"""A lock on the storage: one holder at a time, among all processes that use the same storage.

The lock is a folder of numbered files, of which the highest counts: it says until when the lock is held at the latest,
so that the lock of a killed process does not stay. On Linux the machine of that process does not wait so long. Whoever
creates the next number holds the lock, and renews or releases it by the number after that. No file is changed, and none
is deleted before there is a higher one: a process whose list of files is old finds out. The clocks of all machines must
agree within a few seconds.
"""

import contextlib
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from rayworks import storage
from rayworks.errors import StorageError

HOLD_SECONDS = 120
"""How long a lock may be held. A holder that is killed blocks others for as long."""
WAIT_SECONDS = 180
"""How long to wait for the lock."""
POLL_SECONDS = 0.2
LEASE_SECONDS = 30.0
"""How long a lock is held that is renewed as long as its holder lives."""
RENEWALS_PER_LEASE = 3


class Holder(BaseModel):
    """Who holds a lock, as it is stored."""

    name: str
    """Host and process."""
    until: float
    """When that ends, in seconds since 1970. 0 when the lock was released."""
    process: int = 0
    process_table: str = ""
    """In which the number of the process means something; empty if that is not known."""
    token: str = ""
    """By which a holder knows its own files, when a request failed after it had created one."""


@dataclass(frozen=True)
class Lock:
    """A lock that is held."""

    uri: str
    number: int
    until: float
    token: str

    def check(self) -> None:
        """Raise ``StorageError`` if it was held for too long. Call it before what nobody else may do meanwhile."""
        if time.time() >= self.until:
            raise StorageError(
                f"a lock was held for more than {HOLD_SECONDS} s, and others may hold it now",
                where=self.uri,
                remedy="Run it again, and check that storage and registry respond in time",
            )


class Lease:
    """A lock that is renewed until its holder ends."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self._is_lost = False

    def renew(self) -> None:
        """Hold the lock for another ``LEASE_SECONDS``, unless somebody has taken it because it was not renewed."""
        renewed = _take(self.lock.uri, [self.lock.number], LEASE_SECONDS, self.lock.token)
        self.lock, self._is_lost = renewed or self.lock, renewed is None

    def check(self) -> None:
        """Raise ``StorageError`` if another process has taken the lock."""
        if self._is_lost:
            raise StorageError(
                f"a lock was not renewed for {LEASE_SECONDS:.0f} s, and another process has taken it",
                where=self.lock.uri,
                remedy="Check that the storage responds in time, and run it again when the other process has ended",
            )


def location(storage_uri: str, kind: str, name: str) -> str:
    """Return the URI of the lock of an object, by its kind and name."""
    return storage.join(storage.absolute(storage_uri), "locks", kind, name)


@contextlib.contextmanager
def held(uri: str) -> Generator[Lock]:
    """Hold the lock in the folder ``uri`` while the block runs; wait for it up to ``WAIT_SECONDS``.

    Raises:
        StorageError: Somebody else holds it, or the storage does not respond.
    """
    lock = _acquire(uri, HOLD_SECONDS, WAIT_SECONDS)
    try:
        yield lock
    finally:
        _release(lock)


@contextlib.contextmanager
def kept(uri: str, on_wait: Callable[[str], None]) -> Generator[Lease]:
    """Hold the lock in the folder ``uri`` while the block runs, however long; wait for it as long as others hold it.

    Args:
        uri: The folder of the lock.
        on_wait: Is told who holds it.

    Raises:
        StorageError: The storage does not respond.
    """
    lease = Lease(_acquire(uri, LEASE_SECONDS, math.inf, on_wait))
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_SECONDS / RENEWALS_PER_LEASE):
            with contextlib.suppress(StorageError):  # the storage may respond again before somebody takes the lock
                lease.renew()

    renewing = threading.Thread(target=renew, name="rayworks-lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        _release(lease.lock)


def _acquire(uri: str, hold_seconds: float, wait_seconds: float, on_wait: Callable[[str], None] | None = None) -> Lock:
    """Return the lock as soon as nobody else holds it; ``on_wait`` is told once who does."""
    deadline, token = time.monotonic() + wait_seconds, uuid.uuid4().hex
    while True:
        numbers = _numbers(uri)
        holder = _holder(_file(uri, numbers[-1])) if numbers else None
        if holder is None or holder.until <= time.time() or _has_ended(holder):
            if lock := _take(uri, numbers, hold_seconds, token):
                return lock
        elif time.monotonic() > deadline:
            raise StorageError(
                "another process holds the lock",
                where=uri,
                detail=f"{holder.name}, until {time.strftime('%H:%M:%S', time.gmtime(holder.until))} UTC",
                remedy="Try again when it has ended",
            )
        elif on_wait:
            on_wait(holder.name)
            on_wait = None
        time.sleep(POLL_SECONDS)


def _take(uri: str, earlier: Sequence[int], seconds: float, token: str) -> Lock | None:
    """Create the number after ``earlier``, and return the lock. None if others were faster."""
    number, until = max(earlier, default=0) + 1, time.time() + seconds
    if not _create(uri, number, until, token):
        if not (own := _own(uri, number, token)):
            return None
        until = own.until
    if max(_numbers(uri)) != number:
        # The list was old: others have taken this number and the next meanwhile, and deleted this one.
        storage.delete(_file(uri, number))
        return None
    for file in earlier:
        storage.delete(_file(uri, file))
    return Lock(uri, number, until, token)


def _release(lock: Lock) -> None:
    number = lock.number + 1
    if not _create(lock.uri, number, 0, lock.token) and _own(lock.uri, number, lock.token):
        _create(lock.uri, number + 1, 0, lock.token)  # a renewal had failed after it had created this number
        storage.delete(_file(lock.uri, number))
    storage.delete(_file(lock.uri, lock.number))


def _create(uri: str, number: int, until: float, token: str) -> bool:
    process = os.getpid()
    holder = Holder(
        name=f"{socket.gethostname()}, process {process}",
        until=until,
        process=process,
        process_table=_process_table(),
        token=token,
    )
    return storage.create(_file(uri, number), holder.model_dump_json().encode())


def _own(uri: str, number: int, token: str) -> Holder | None:
    """Return what a file says if the holder with this token has created it."""
    holder = _holder(_file(uri, number))
    return holder if holder and holder.token == token else None


def _has_ended(holder: Holder) -> bool:
    """Return whether the process that holds a lock was killed, as far as this process can see."""
    if not holder.process_table or holder.process_table != _process_table():
        return False
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs as another user
        pass
    return False


def _process_table() -> str:
    """Return the boot and the namespace in which a number names one process; empty if the system is not Linux."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _numbers(uri: str) -> list[int]:
    return [int(file.rpartition("/")[2].removesuffix(".json")) for file, _ in storage.files_in(uri)]


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
