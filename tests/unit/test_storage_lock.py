"""A lock on the storage has one holder at a time, on a local disk and on an object store. No Ray."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayworks import storage, storage_lock
from rayworks.errors import StorageError


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


def test_whoever_waits_too_long_is_told_who_holds_it(lock: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage_lock, "WAIT_SECONDS", 0)
    with storage_lock.held(lock), pytest.raises(StorageError, match=r"Another process holds the lock: .*, process \d+"):
        storage_lock._acquire(lock)


def test_the_lock_of_a_killed_holder_is_taken_over_when_its_time_is_up(lock: str, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as short:
        short.setattr(storage_lock, "HOLD_SECONDS", 0.3)
        killed = storage_lock._acquire(lock)
    with storage_lock.held(lock) as current:
        assert time.time() >= killed.until
        current.check()
        with pytest.raises(StorageError, match="others may hold it now"):
            killed.check()


def test_the_lock_is_released_by_an_error(lock: str):
    with pytest.raises(ZeroDivisionError), storage_lock.held(lock):
        raise ZeroDivisionError
    with storage_lock.held(lock) as again:
        again.check()
