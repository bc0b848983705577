"""Wait for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import Any


def eventually(
    condition: Callable[[], Any], seconds: float = 20, message: str | Callable[[], str] = "", every: float | None = None
) -> Any:
    """Return the first true value of ``condition``.

    It is called every ``every`` seconds; without that ten times a second at first, and less often the longer it waits.
    One that is expensive is called less often as well, so that what it waits for has the processors. The pauses are two
    seconds at most.

    Raises:
        AssertionError: There is none within ``seconds``. It has ``message``, or what that returns at the end.
    """
    start = began = time.monotonic()
    while not (value := condition()):
        ended = time.monotonic()
        if ended > start + seconds:
            raise AssertionError(message() if callable(message) else message or value)
        pause = every or min(max(0.1, (ended - start) / 20), 2)
        time.sleep(max(pause, min(4 * (ended - began), 2)))
        began = time.monotonic()
    return value
