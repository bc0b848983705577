"""Wait for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], seconds: float = 20, message: str = "", every: float = 0.1) -> Any:
    """Return the first true value of ``condition``, which is called every ``every`` seconds.

    Raises:
        AssertionError: There is none within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, message or value
        time.sleep(every)
    return value
