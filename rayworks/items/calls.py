"""The calls of the function on the items of one chunk: what they return, what they raise, and how long they take."""

import heapq
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rayworks import call_stack
from rayworks.items import parts
from rayworks.items.options import FanOutOptions
from rayworks.items.parts import Failure
from rayworks.items.time_limit import Timeout, time_limit

BLOCK_SECONDS = 0.01
"""Calls of less are timed together, so that an item of a microsecond costs no more than its call."""
SLOWEST = 5
"""How many of the slowest items a run shows."""
LOOKS_PER_STALL = 4
TIMEOUT = "Timeout"
"""The kind of the failure of an item that took too long."""
VALUE_CHARACTERS = 200
TRACEBACK_LINES = 20


@dataclass(frozen=True)
class Slow:
    """Items whose calls took long: one, or a few that were timed together."""

    seconds: float
    first: int
    count: int


class Calls:
    """The calls on the items of one chunk."""

    def __init__(
        self,
        call: Callable[..., Any],
        items: Sequence[Any],
        first: int,
        options: FanOutOptions,
        stall_seconds: float,
        longest_seconds: float,
    ) -> None:
        self._call, self._items, self._first, self._options = call, items, first, options
        self._stall_seconds, self._longest_seconds = stall_seconds, longest_seconds
        self._results: list[Any] = []
        """One entry for each item so far, in order; what stands for a failed item means nothing."""
        self._call_until = math.inf
        self._started: float | None = None
        """When the call began that goes on; None between calls."""
        self._retried: int | None = None
        """Position of the item that is called again."""
        self.failures: dict[int, Failure] = {}
        """By number of the item, from the first of all."""
        self.seconds = 0.0
        self.slowest: list[Slow] = []

    def run(self) -> None:
        """Call the function on the items until ``longest_seconds`` have passed, and again on those that fail, as often
        as the options allow. At least one item is called."""
        started = time.perf_counter()
        self._call_until = started + self._longest_seconds
        size = self._options.batch_size
        limit = time_limit(self._options.timeout_seconds, lambda: (len(self._results), self._started))
        with limit, self._slow_calls_named():
            if size is None:
                self._call_each()
            else:
                while self._goes_on():
                    self._call_batch(self._items[self.done : self.done + size])
            self._retry()
        self.seconds = time.perf_counter() - started

    @property
    def done(self) -> int:
        """How many items were called, from the first on."""
        return len(self._results)

    def encoded(self, format: parts.Format) -> tuple[Sequence[int], parts.Encoded]:
        """Return the numbers of the items that have a result, and the results as they are stored.

        A result that cannot be stored makes its item a failure.
        """
        numbers, results = self._successes()
        try:
            return numbers, parts.encode(numbers, results, format)
        except Exception:  # an object's own code may raise anything when it is pickled
            for number, result in zip(numbers, results, strict=True):
                if problem := parts.problem_of(result, format):
                    self._fail(number - self._first, "UnstorableResult", problem)
        numbers, results = self._successes()
        return numbers, parts.encode(numbers, results, format)

    def _successes(self) -> tuple[Sequence[int], list[Any]]:
        if not self.failures:
            return range(self._first, self._first + len(self._results)), self._results
        succeeded = [position for position in range(len(self._results)) if self._first + position not in self.failures]
        return [self._first + position for position in succeeded], [self._results[position] for position in succeeded]

    @contextmanager
    def _slow_calls_named(self) -> Generator[None]:
        """Name calls that take long in the output of this worker, which is in the log of the flow run."""
        caller, ended, seconds = threading.get_ident(), threading.Event(), self._stall_seconds
        has_limit = self._options.timeout_seconds is not None  # whose timer is the same, and ends the process

        def look() -> None:
            named = None
            while not ended.wait(seconds / LOOKS_PER_STALL):
                if not has_limit:
                    call_stack.write_if_held(seconds)
                position = len(self._results) if self._retried is None else self._retried
                number, started = self._first + position, self._started
                if started is None or started == named or time.perf_counter() - started < seconds:
                    continue
                named = started
                text = f"Item {number} has taken {time.perf_counter() - started:.0f} s. Its calls, the innermost last:"
                sys.stderr.write(f"{text}\n{call_stack.of_thread(caller)}\n")

        if not has_limit:
            call_stack.write_if_held(seconds)
        looking = threading.Thread(target=look, name="rayworks-slow-calls", daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()
            if not has_limit:
                call_stack.write_no_more()

    def _call_each(self) -> None:
        """Fill the results by a loop in C, which costs a call nothing. Those before a call that raises are kept."""
        remaining, size = iter(self._items), 1
        while self._goes_on():
            begin = self.done
            started = self._started = time.perf_counter()
            try:
                self._results.extend(map(self._call, islice(remaining, size)))
                if len(self._results) < min(begin + size, len(self._items)):
                    raise RuntimeError("the function raised StopIteration")
            except (Exception, SystemExit, Timeout) as error:
                self._fail_with(error, len(self._results), started)
                self._results.append(None)
            seconds = self._note(started, begin, len(self._results) - begin)
            size = max(1, min(int(size * BLOCK_SECONDS / max(seconds, 1e-9)), 2 * size))

    def _goes_on(self) -> bool:
        """Return whether there are items that were not called yet, and time for them."""
        return self.done < len(self._items) and (not self.done or time.perf_counter() < self._call_until)

    def _call_batch(self, batch: Sequence[Any]) -> None:
        """Call the function on a batch; one that fails is called again in halves, until the item stands alone."""
        begin, started = len(self._results), time.perf_counter()
        self._started = started
        try:
            results = self._results_of(batch)
        except (Exception, SystemExit, Timeout) as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._call_batch(batch[:middle])
                self._call_batch(batch[middle:])
                return
            self._fail_with(error, begin, started)
            results = [None]
        self._results += results
        self._note(started, begin, len(batch))

    def _results_of(self, batch: Sequence[Any]) -> list[Any]:
        results = list(self._call(list(batch)))
        if len(results) != len(batch):
            raise ValueError(f"the function returned {len(results)} results for {len(batch)} items")
        return results

    def _retry(self) -> None:
        for attempt in range(self._options.retries):
            positions = [number - self._first for number in sorted(self.failures)]
            if not positions:
                return
            time.sleep(self._options.retry_seconds * 2**attempt)
            for position in positions:
                self._call_again(position, attempts=attempt + 2)

    def _call_again(self, position: int, attempts: int) -> None:
        item, self._retried = self._items[position], position
        started = self._started = time.perf_counter()
        try:
            result = self._call(item) if self._options.batch_size is None else self._results_of([item])[0]
        except (Exception, SystemExit, Timeout) as error:
            self._fail_with(error, position, started, attempts)
        else:
            self._results[position] = result
            del self.failures[self._first + position]
        self._note(started, position, 1)

    def _note(self, started: float, position: int, count: int) -> float:
        """End calls that were timed together: keep the slowest, and return the seconds that they took."""
        self._started = None
        slow = Slow(time.perf_counter() - started, self._first + position, count)
        self.slowest = heapq.nlargest(SLOWEST, [*self.slowest, slow], key=lambda slow: slow.seconds)
        return slow.seconds

    def _fail_with(self, error: BaseException, position: int, started: float, attempts: int = 1) -> None:
        """Keep what a call raised. The time since ``started`` is that of all calls that were timed together."""
        self._started = None  # from now on no time limit holds
        seconds = time.perf_counter() - started
        if isinstance(error, Timeout):
            limit = self._options.timeout_seconds or 0.0
            self._fail(position, TIMEOUT, no_result_within(limit), seconds=seconds, attempts=attempts)
            return
        lines = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
        self._fail(
            position,
            type(error).__name__,
            parts.text_of(error, str),
            trace=parts.storable("\n".join(lines)),
            seconds=seconds,
            attempts=attempts,
        )

    def _fail(
        self, position: int, kind: str, error: str, *, trace: str = "", seconds: float = 0.0, attempts: int = 1
    ) -> None:
        number = self._first + position
        self.failures[number] = Failure(
            item=number,
            value=value_text(self._items[position]),
            kind=kind,
            error=error,
            traceback=trace,
            attempts=attempts,
            seconds=seconds,
            worker=worker_name(),
        )


def value_text(item: Any) -> str:
    """Return the beginning of an item as text."""
    text = parts.text_of(item, repr)
    return text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "…"


def no_result_within(seconds: float) -> str:
    """Return the error of an item that took too long."""
    return f"no result within {seconds:g} s"


def worker_name() -> str:
    """Return the node and the id of this process."""
    return f"{socket.gethostname()} pid {os.getpid()}"
