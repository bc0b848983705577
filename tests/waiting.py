"""Wait for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import Any


def eventually(
    condition: Callable[[], Any], seconds: float = 20, message: str | Callable[[], str] = "", every: float = 0.1
) -> Any:
    """Return the first true value of ``condition``, which is called every ``every`` seconds.

    Raises:
        AssertionError: There is none within ``seconds``. It has ``message``, or what that returns at the end.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(message() if callable(message) else message or value)
        time.sleep(every)
    return value
