"""What a thread is doing, as text for people."""

import faulthandler
import sys
import traceback

FRAMES = 12
"""How many of the innermost calls are shown."""
STDERR = 2


def of_thread(ident: int) -> str:
    """Return the calls of the thread ``ident`` of this process, the innermost last; empty if it has ended."""
    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]
    return "".join(traceback.format_stack(frame)[-FRAMES:]).rstrip() if frame else ""


def write_if_held(seconds: float) -> None:
    """Write the calls of all threads to the standard error of this process, unless this is called again in time.

    For threads that look regularly: a call in C that holds the GIL (global interpreter lock) lets none of them run.
    faulthandler's own thread needs no lock. A process has one such timer.
    """
    faulthandler.dump_traceback_later(seconds, file=STDERR)


def write_no_more() -> None:
    """End what :func:`write_if_held` began."""
    faulthandler.cancel_dump_traceback_later()
