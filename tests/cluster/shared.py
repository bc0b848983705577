"""What the processes of one test session share: objects that one of them creates, and whose turn it is."""

import contextlib
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

TURN_SECONDS = 1800
"""How long a test waits for its turn. It then runs anyway: a process that was killed reports the end of no test."""


def session_folder() -> Path:
    """Return a folder that all processes of this test session see, and no other session does."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"process-{os.getpid()}")
    folder = Path(tempfile.gettempdir()) / f"rayworks-cluster-tests-{session}"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def shared_by_processes(name: str, create: Callable[[], Any], delete: Callable[[Any], None]) -> Iterator[Any]:
    """Yield what one process creates and all use; the last process that leaves the block deletes it.

    Args:
        name: Its name in the session.
        create: Returns something that JSON can hold. Where it fails, it has failed for all processes.
        delete: Is called with what ``create`` returned.
    """
    folder = session_folder()
    result = folder / f"{name}.json"
    with (folder / f"{name}.lock").open("w") as gate, (folder / f"{name}.users").open("w") as users:
        with _locked(gate):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not result.exists():
                result.write_text(
                    json.dumps({"error": f"{name} could not be created by another process: see its error"})
                )
                result.write_text(json.dumps({"value": create()}))
        content = json.loads(result.read_text())
        if "error" in content:
            pytest.fail(content["error"])
        try:
            yield content["value"]
        finally:
            with _locked(gate):
                if _is_last(users):
                    result.unlink()
                    delete(content["value"])


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


class Turns:
    """The order of the tests that disturb others: ``first`` and ``last`` ones, in whichever process they run.

    A test marked ``turn("first")`` runs before each other test that uses the installation, one marked ``turn("last")``
    when all others have ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wait(self, item: pytest.Item) -> None:
        """Return when ``item`` may run."""
        items = [other for other in item.session.items if other.get_closest_marker("kubernetes")]
        if turn_of(item) == "last":
            awaited = [other for other in items if turn_of(other) != "last"]
        elif turn_of(item) != "first" and "installation" in getattr(item, "fixturenames", ()):
            awaited = [other for other in items if turn_of(other) == "first"]
        else:
            return
        remaining = {self._file(other) for other in awaited}

        def have_ended() -> bool:
            remaining.difference_update([file for file in remaining if file.exists()])
            return not remaining

        with contextlib.suppress(AssertionError):
            eventually(have_ended, TURN_SECONDS, every=0.5)

    def end(self, item: pytest.Item) -> None:
        """Report that ``item`` has run."""
        self._file(item).touch()

    def _file(self, item: pytest.Item) -> Path:
        return self._folder / f"ended-{item.session.items.index(item)}"


def turn_of(item: pytest.Item) -> str | None:
    """Return ``first`` or ``last`` for a test with such a mark."""
    marker = item.get_closest_marker("turn")
    return marker.args[0] if marker else None
