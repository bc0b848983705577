"""Waiting for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import Any


def eventually(question: Callable[[], Any], seconds: float = 20, what: str = "", every: float = 0.1) -> Any:
    """The first true answer, asked for ten times a second or as told; an assertion fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, what or answer
        time.sleep(every)
    return answer
