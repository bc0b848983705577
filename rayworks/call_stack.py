"""What a thread is doing, as text for people."""

import sys
import traceback

FRAMES = 12
"""How many of the innermost calls are shown."""


def of_thread(ident: int) -> str:
    """Return the calls of the thread ``ident`` of this process, the innermost last; empty if it has ended."""
    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]
    return "".join(traceback.format_stack(frame)[-FRAMES:]).rstrip() if frame else ""
