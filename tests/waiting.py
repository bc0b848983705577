"""Wait for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import Any


def eventually(
    condition: Callable[[], Any], seconds: float = 20, message: str | Callable[[], str] = "", every: float = 0.1
) -> Any:
    """Return the first true value of ``condition``, which is called every ``every`` seconds.

    One that takes long is called less often, at least every two seconds, so that what it waits for has the processors.

    Raises:
        AssertionError: There is none within ``seconds``. It has ``message``, or what that returns at the end.
    """
    began = time.monotonic()
    deadline = began + seconds
    while not (value := condition()):
        ended = time.monotonic()
        if ended > deadline:
            raise AssertionError(message() if callable(message) else message or value)
        time.sleep(max(every, min(4 * (ended - began), 2)))
        began = time.monotonic()
    return value
