"""What a task does that needs more memory than there is."""

import time


def allocate_all() -> None:
    """Allocate 9 GB in about two seconds, and keep them until Ray ends this process."""
    blocks: list[bytearray] = []
    for _ in range(90):
        blocks.append(bytearray(100_000_000))
        time.sleep(0.02)
    time.sleep(60)
