"""Ends calls that take too long, whatever they do."""

import contextlib
import faulthandler
import signal
import time
from collections.abc import Callable, Generator
from types import FrameType

TICKS_PER_LIMIT = 10
GRACE_SECONDS = 2.0
"""How long beyond its time limit a call may go on that does not react to a signal, before its process is ended."""


class Timeout(BaseException):
    """A call took longer than it may. No ``Exception``, which the function itself might catch."""


@contextlib.contextmanager
def time_limit(seconds: float | None, call: Callable[[], tuple[int, float | None]]) -> Generator[None]:
    """Raise :class:`Timeout` in a call that takes longer than ``seconds``, and end the process if it does not react.

    A timer ticks and looks whether the same call goes on: so calls cost nothing. A handler of a signal runs between
    two Python instructions; what hangs in C without them is ended by faulthandler's thread, which needs no lock.

    Args:
        seconds: None for no limit.
        call: Returns what changes with each call; its second entry is None while there is none.
    """
    if seconds is None:
        yield
        return
    limit, last, since = seconds, call(), time.monotonic()

    def tick(number: int, frame: FrameType | None) -> None:
        nonlocal last, since
        faulthandler.dump_traceback_later(limit + GRACE_SECONDS, exit=True, file=2)
        now, current = time.monotonic(), call()
        if current != last or current[1] is None:
            last, since = current, now
        elif now - since >= limit:
            since = now
            raise Timeout

    previous = signal.signal(signal.SIGALRM, tick)
    faulthandler.dump_traceback_later(limit + GRACE_SECONDS, exit=True, file=2)
    interval = min(limit / TICKS_PER_LIMIT, 1.0)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
