"""What the processes of one test session share: objects that one of them creates, and which tests have ended."""

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.waiting import eventually

LAST_SECONDS = 1800
"""How long a last test waits for the others."""


def session_folder() -> Path:
    """Return a folder that all processes of this test session see, and no other session does."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"process-{os.getpid()}")
    folder = Path(tempfile.gettempdir()) / f"rayworks-cluster-tests-{session}"
    folder.mkdir(exist_ok=True)
    return folder


def created_once(name: str, create: Callable[[], Any]) -> Any:
    """Return what one process creates and all use.

    Args:
        name: Its name in the session.
        create: Returns something that JSON can hold. Where it fails, it has failed for all processes.
    """
    result = _result(name)
    with result.with_suffix(".creation").open("w") as gate, _locked(gate):
        if not result.exists():
            result.write_text(json.dumps({"error": f"{name} could not be created by another process: see its error"}))
            result.write_text(json.dumps({"value": create()}))
    content = json.loads(result.read_text())
    if "error" in content:
        pytest.fail(content["error"])
    return content["value"]


@contextmanager
def shared_by_processes(name: str, create: Callable[[], Any], delete: Callable[[Any], None]) -> Iterator[Any]:
    """Yield what one process creates and all use; the last process that leaves the block deletes it.

    Args:
        name: Its name in the session.
        create: As for :func:`created_once`.
        delete: Is called with what ``create`` returned.
    """
    result = _result(name)
    with result.with_suffix(".lock").open("w") as gate, result.with_suffix(".users").open("w") as users:
        with _locked(gate):
            fcntl.flock(users, fcntl.LOCK_SH)
            value = created_once(name, create)
        try:
            yield value
        finally:
            with _locked(gate):
                if _is_last(users):
                    result.unlink()
                    delete(value)


def _result(name: str) -> Path:
    return session_folder() / f"{name}.json"


@contextmanager
def _locked(file: TextIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_last(users: TextIO) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class EndedTests:
    """The tests that have ended, in whichever process they ran.

    A test marked ``last`` disturbs others: it runs when all that are not marked have ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wait_for_others(self, item: pytest.Item) -> None:
        """Return when each test that is not marked ``last`` has ended."""
        items = [other for other in item.session.items if other.get_closest_marker("kubernetes")]
        remaining = {self._file(other): other.name for other in items if not is_last(other)}

        def have_ended() -> bool:
            for file in [file for file in remaining if file.exists()]:
                del remaining[file]
            return not remaining

        # A process that was killed reports the end of no test.
        eventually(have_ended, LAST_SECONDS, lambda: f"have not ended: {', '.join(remaining.values())}", every=0.5)

    def add(self, item: pytest.Item) -> None:
        """Report that ``item`` has ended."""
        self._file(item).touch()

    def _file(self, item: pytest.Item) -> Path:
        return self._folder / f"ended-{item.session.items.index(item)}"


def is_last(item: pytest.Item) -> bool:
    """Return whether a test is marked ``last``."""
    return item.get_closest_marker("last") is not None
