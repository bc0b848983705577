"""How many items the next chunk has, by what items have been measured to cost. Pure."""

import math
from dataclasses import dataclass

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 10.0
"""How long a chunk should take: a second hides the few milliseconds of a Ray task, and loses little when it is lost."""
LAST_SECONDS = 0.05
"""How long the last chunks take, which become smaller so that all workers end together."""
GROWTH, FAST_GROWTH, SHORT_SECONDS = 2, 32, 0.05
"""How many times larger a chunk may be than those before it, and than those that took less than a moment."""
SECONDS_PER_ELAPSED = 1 / 60
"""Chunks become longer with the run, so that a run of a day does not write millions of files."""
LONGEST_PER_AIM = 3
"""How many times longer than it should take a chunk may go on, before it gives back the items that are left."""
BUILDS_PER_CHUNK = 20
"""A chunk takes at least so many times what the construction of a class takes that it repeats."""
MOST_BYTES = 128 * 1024**2
"""How large the results of a chunk should be at most: the worker holds them until it writes them."""
MOST_ITEMS = 1_000_000
FORGETTING = 0.5
"""The weight of the newest measurement in the moving averages."""


@dataclass
class ChunkSize:
    """The size of the next chunk: one item at first, then a few times that of the largest that ended.

    Args:
        fixed: The size that the user has chosen. None: by cost.
    """

    fixed: int | None = None
    largest: int = 0
    """Items of the largest chunk that ended."""
    largest_seconds: float = 0.0
    """What it took."""
    item_seconds: float = 0.0
    item_bytes: float = 0.0
    repeated_seconds: float = 0.0
    """What each chunk spends before its first item."""

    def learn(self, items: int, seconds: float, size: int, repeated: float = 0.0) -> None:
        """Take in what a chunk cost.

        Args:
            items: How many items it had.
            seconds: From the first call until the results were stored.
            size: Bytes of their results.
            repeated: Seconds before the first call that the next chunk will spend again.
        """
        weight = FORGETTING if self.largest else 1.0
        self.item_seconds += weight * (seconds / items - self.item_seconds)
        self.item_bytes += weight * (size / items - self.item_bytes)
        self.repeated_seconds += weight * (repeated - self.repeated_seconds)
        if items >= self.largest:
            self.largest, self.largest_seconds = items, seconds

    def next(self, remaining: int, slots: int, elapsed: float) -> int:
        """Return the number of items of the next chunk.

        Args:
            remaining: Items that are in no chunk yet.
            slots: Chunks that run at the same time. Towards the end chunks become smaller, so that all end together.
            elapsed: Seconds since the run began.
        """
        if self.fixed:
            return min(self.fixed, remaining)
        growth = FAST_GROWTH if self.largest_seconds < SHORT_SECONDS else GROWTH
        limits = [
            max(growth * self.largest, 1),
            self._aim(elapsed) / self.item_seconds if self.item_seconds else math.inf,
            MOST_BYTES / self.item_bytes if self.item_bytes else math.inf,
            max(remaining / (2 * max(slots, 1)), LAST_SECONDS / self.item_seconds if self.item_seconds else 0),
            MOST_ITEMS,
        ]
        return min(max(math.ceil(min(limits)), 1), remaining)

    def longest_seconds(self, elapsed: float) -> float:
        """Return after how many seconds a chunk gives back the items that are left: they cost more than those before.

        Args:
            elapsed: Seconds since the run began.
        """
        return math.inf if self.fixed else LONGEST_PER_AIM * self._aim(elapsed)

    def _aim(self, elapsed: float) -> float:
        """Return how many seconds a chunk should take."""
        aim = min(max(SHORTEST_SECONDS, elapsed * SECONDS_PER_ELAPSED), LONGEST_SECONDS)
        return max(aim, BUILDS_PER_CHUNK * self.repeated_seconds)
