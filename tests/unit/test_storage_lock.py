"""A lock on the storage has one holder at a time, on a local disk and on an object store. No Ray."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayworks import storage, storage_lock
from rayworks.errors import StorageError
from tests.waiting import eventually


@pytest.fixture
def lock(place: str) -> str:
    """The URI of a lock that nobody has held."""
    return storage.join(place, "lock")


def test_of_many_that_want_it_one_holds_it_at_a_time_and_all_get_it(lock: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_lock, "POLL_SECONDS", 0.01)
    holders: list[int] = []
    most: list[int] = []

    def hold(number: int) -> None:
        with storage_lock.held(lock):
            holders.append(number)
            most.append(len(holders))
            time.sleep(0.02)  # what is done meanwhile
            holders.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(8)))
    assert most == [1] * 8
    assert len(storage.list_files(lock)) == 1, "files of earlier holders are left"


def test_a_number_that_others_took_and_deleted_meanwhile_is_not_the_lock(lock: str, monkeypatch: pytest.MonkeyPatch):
    for _ in range(3):
        with storage_lock.held(lock):
            pass
    old_lists = iter([[1]])
    current = storage_lock._numbers
    monkeypatch.setattr(storage_lock, "_numbers", lambda uri: next(old_lists, None) or current(uri))
    with storage_lock.held(lock) as held:
        assert held.number == 7
        assert current(lock) == [7]


def test_whoever_waits_too_long_is_told_who_holds_it(lock: str):
    with storage_lock.held(lock), pytest.raises(StorageError, match=r"Another process holds the lock: .*, process \d+"):
        storage_lock._acquire(lock, hold_seconds=60, wait_seconds=0)


def test_the_lock_of_a_killed_holder_is_taken_over_when_its_time_is_up(lock: str):
    killed = storage_lock._acquire(lock, hold_seconds=0.3, wait_seconds=60)
    with storage_lock.held(lock) as current:
        assert time.time() >= killed.until
        current.check()
        with pytest.raises(StorageError, match="others may hold it now"):
            killed.check()


@pytest.mark.skipif(not Path("/proc/self/ns").exists(), reason="Only Linux names the table of processes")
def test_the_lock_of_a_process_that_was_killed_here_is_free_at_once(tmp_path: Path):
    lock = str(tmp_path / "lock")
    program = (
        "import os, signal, sys; from rayworks import storage_lock;"
        "storage_lock._acquire(sys.argv[1], hold_seconds=3600, wait_seconds=0); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, lock], check=False)
    assert killed.returncode == -signal.SIGKILL
    storage_lock._acquire(lock, hold_seconds=60, wait_seconds=0)


def test_the_lock_of_a_process_on_another_machine_is_not_free(lock: str, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(storage_lock, "_process_table", lambda: "another boot")
        elsewhere.setattr(os, "getpid", lambda: 2**22)  # more than Linux gives
        storage_lock._acquire(lock, hold_seconds=3600, wait_seconds=0)
    with pytest.raises(StorageError, match=f"process {2**22}"):
        storage_lock._acquire(lock, hold_seconds=60, wait_seconds=0)


def test_the_lock_is_released_by_an_error(lock: str):
    with pytest.raises(ZeroDivisionError), storage_lock.held(lock):
        raise ZeroDivisionError
    with storage_lock.held(lock) as again:
        again.check()


def test_a_lock_that_is_kept_outlasts_its_lease_and_others_are_told_who_holds_it(
    lock: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage_lock, "LEASE_SECONDS", 12.0)  # several times what a renewal takes on a busy machine
    told: list[str] = []
    events: list[str] = []

    def wait_and_keep() -> None:
        with storage_lock.kept(lock, told.append) as second:
            events.append("second begins")
            second.check()

    with ThreadPoolExecutor(1) as pool:
        with storage_lock.kept(lock, told.append) as first:
            waiting = pool.submit(wait_and_keep)
            eventually(lambda: first.lock.number > 4, 200, "it is not renewed")
            first.check()
            events.append("first ends")
        waiting.result(timeout=60)
    assert events == ["first ends", "second begins"]
    assert len(told) == 1
    assert f"process {os.getpid()}" in told[0]
    assert len(storage.list_files(lock)) == 1, "files of earlier holders are left"


def test_whoever_could_not_renew_a_lock_that_others_took_is_told(lock: str):
    lost = storage_lock.Lease(storage_lock._acquire(lock, hold_seconds=0, wait_seconds=60))
    with storage_lock.kept(lock, lambda _: None) as current:
        lost.renew()
        with pytest.raises(StorageError, match="another process has taken it"):
            lost.check()
        current.renew()
        current.check()


def test_a_renewal_that_failed_after_it_was_stored_neither_loses_nor_blocks_the_lock(
    lock: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(uri: str) -> None:
        raise StorageError("the storage did not respond", where=uri)

    for renews_again in (True, False):
        with storage_lock.kept(lock, lambda _: None) as lease:
            with monkeypatch.context() as away, pytest.raises(StorageError, match="did not respond"):  # noqa: PT012
                away.setattr(storage, "delete", fail)
                lease.renew()
            if renews_again:
                lease.renew()
            lease.check()
        storage_lock._release(storage_lock._acquire(lock, hold_seconds=60, wait_seconds=0))
        assert len(storage.list_files(lock)) == 1, "files of earlier holders are left"
