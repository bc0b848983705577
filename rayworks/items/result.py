"""What a fan-out has produced: counts, and where the results and the failures are."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from rayworks.items import parts
from rayworks.items.calls import Slow
from rayworks.items.parts import Failure
from rayworks.records import Record

FAILURES_SHOWN = 100
SLOW_SECONDS = 0.1
"""Items that took less are not named as the slowest."""


class FanOutResult(Record):
    """The record of a function that was applied to many items."""

    uri: str
    """Folder of the results and the failures."""
    function: str
    items: int
    failed: int
    failures_by_kind: dict[str, int]
    found: int
    """Items whose results an earlier run had stored."""
    seconds: float
    """From the first call to the last result."""
    call_seconds: float
    """Of all calls together."""
    slowest: tuple[Slow, ...]

    def results(self) -> Iterator[tuple[int, Any]]:
        """Yield number and result of every item that did not fail, in the order of the items.

        Results are read a file at a time, so any number of them fits into memory.
        """
        return parts.read_results(self.uri)

    def failures(self) -> Iterator[Failure]:
        """Yield the failures in the order of the items."""
        return parts.read_failures(self.uri)

    @property
    def summary(self) -> list[tuple[str, str]]:
        """What a person wants to know, as pairs of name and text."""
        succeeded = f"{self.items - self.failed:,} of {self.items:,} items"
        lines = [("function", self.function), ("succeeded", succeeded)]
        if self.found:
            lines.append(("", f"{self.found:,} of them in an earlier run"))
        if self.failed:
            lines.append(("failed", f"{self.failed:,}: {kinds_text(self.failures_by_kind)}"))
        if slowest := [_slow_text(slow) for slow in self.slowest if slow.seconds >= SLOW_SECONDS]:
            lines.append(("slowest", ", ".join(slowest)))
        return [*lines, ("results", self.uri)]


def kinds_text(kinds: dict[str, int]) -> str:
    """Return failures by kind as text, the most frequent first."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1]))


def _slow_text(slow: Slow) -> str:
    last = slow.first + slow.count - 1
    items = f"item {slow.first}" if slow.count == 1 else f"items {slow.first} to {last} together"
    return f"{items} {slow.seconds:.3g} s"


def failure_rows(uri: str) -> list[dict[str, Any]]:
    """Return the first failures beneath the folder of a fan-out, as rows of a table in the Prefect UI."""
    columns = ("item", "value", "kind", "error", "attempts", "seconds", "worker")
    failures = islice(parts.read_failures(uri), FAILURES_SHOWN)
    return [{name: getattr(failure, name) for name in columns} for failure in failures]
