"""What a task does that needs more memory than there is."""

import mmap
import time


def allocate_all() -> None:
    """Allocate 12 GB in a few seconds, and keep them until Ray ends this process."""
    blocks: list[mmap.mmap] = []
    for _ in range(120):
        block = mmap.mmap(-1, 100_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_HUGEPAGE)  # a virtual machine takes five times as long for small pages
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 0
        blocks.append(block)
        time.sleep(0.02)
    time.sleep(60)
