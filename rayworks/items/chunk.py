"""The worker's side: call the function on each item of a chunk, and store its results and failures."""

import faulthandler
import heapq
import os
import signal
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import FrameType
from typing import Any

from rayworks import import_path, storage
from rayworks.errors import ParameterError
from rayworks.items import parts
from rayworks.items.function import is_built, name_of
from rayworks.items.options import FanOutOptions
from rayworks.items.parts import Failure, Range
from rayworks.items.sources import Part

BLOCK_SECONDS = 0.01
"""Calls of less are timed together, so that an item of a microsecond costs no more than its call."""
SLOWEST = 5
"""How many of the slowest items a run shows."""
TICKS_PER_TIMEOUT = 10
GRACE_SECONDS = 2.0
"""How long beyond its time limit a call may go on that does not react to a signal, before its process is ended."""
ATTEMPTS = "attempts"
"""Folder where a worker notes that it processes items during which another one ended."""
TIMEOUT = "Timeout"
"""The kind of the failure of an item that took too long."""
VALUE_CHARACTERS = 200
TRACEBACK_LINES = 20


class Timeout(BaseException):
    """A call took longer than it may. No ``Exception``, which the function itself might catch."""


@dataclass(frozen=True)
class Work:
    """What is the same for all chunks of a run."""

    function: Callable[..., Any] | str
    """The function or class, or its import path."""
    options: FanOutOptions
    folder: str
    """URI of the run's results."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items that one Ray task processes."""

    items: Range
    part: Part
    crashes: int = 0
    """How often a worker ended while it processed this chunk."""
    is_suspect: bool = False
    """Whether a worker ended while it processed these items, perhaps with others."""


@dataclass(frozen=True)
class Slow:
    """Items whose calls took long: one, or a few that were timed together."""

    seconds: float
    first: int
    count: int


@dataclass
class Outcome:
    """What a chunk cost, and how many items failed. The results are on the storage."""

    items: int
    failed: int = 0
    seconds: float = 0.0
    """Of the calls."""
    chunk_seconds: float = 0.0
    """From the first call until the results were stored."""
    repeated_seconds: float = 0.0
    """What the next chunk in this process will spend again before its first call."""
    bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter[str])
    """Failures by kind."""
    slowest: list[Slow] = field(default_factory=list[Slow])
    first_failure: str = ""


def process(work: Work, chunk: Chunk) -> Outcome:
    """Call the function on each item of a chunk, and store results and failures.

    Raises:
        ParameterError: The function cannot be imported, or the class cannot be built.
        StorageError: The results cannot be stored.
    """
    if chunk.is_suspect:
        storage.write_bytes(_attempt_uri(work.folder, chunk.items), f"{_worker()} {time.time()}".encode())
    started = time.perf_counter()
    call = _callable(work)
    items = chunk.part.read()
    calls = _Calls(call, items, chunk.items.first, work.options)
    prepared = time.perf_counter()
    calls.run()
    numbers, results = calls.encoded(work.options.format)
    if calls.failures:
        parts.write_failures(work.folder, chunk.items, [calls.failures[number] for number in sorted(calls.failures)])
    if numbers:
        parts.write_results(work.folder, chunk.items, results)
    if chunk.is_suspect:
        storage.delete(_attempt_uri(work.folder, chunk.items))
    first = min(calls.failures, default=None)
    return Outcome(
        items=len(items),
        failed=len(calls.failures),
        seconds=calls.seconds,
        chunk_seconds=time.perf_counter() - prepared,
        repeated_seconds=prepared - started
        if work.options.num_gpus
        else 0.0,  # Ray ends the process, to free the GPU's memory
        bytes=parts.size_of(results) if numbers else 0,
        kinds=Counter(failure.kind for failure in calls.failures.values()),
        slowest=sorted(calls.slowest, key=lambda slow: -slow.seconds),
        first_failure="" if first is None else sentence(calls.failures[first]),
    )


def sentence(failure: Failure) -> str:
    """Return what happened to an item, for the message of a run."""
    return f"item {failure.item} ({failure.value}): {failure.kind}: {failure.error}"


def last_attempt(folder: str, items: Range) -> tuple[str, float]:
    """Return the worker that began to process suspect items last, and the seconds since then; "" if none began."""
    uri = _attempt_uri(folder, items)
    if not storage.exists(uri):
        return "", 0.0
    worker, _, began = storage.read_bytes(uri).decode().rpartition(" ")
    return worker, max(time.time() - float(began), 0.0)


def _attempt_uri(folder: str, items: Range) -> str:
    return storage.join(folder, ATTEMPTS, items.name)


def _worker() -> str:
    return f"{socket.gethostname()} pid {os.getpid()}"


_built: dict[str, Callable[..., Any]] = {}
"""The callable of the run that this worker process works for. Ray gives the process from run to run."""


def _callable(work: Work) -> Callable[..., Any]:
    """Return what is called with an item; a class is built once in each worker process."""
    if work.folder in _built:
        return _built[work.folder]
    function = import_path.load(work.function) if isinstance(work.function, str) else work.function
    call: Callable[..., Any] = function
    if is_built(function):
        try:
            call = function(**work.options.arguments)
        except Exception as error:
            raise ParameterError(
                "the class cannot be built",
                where=name_of(function),
                detail=f"{type(error).__name__}: {error}",
                remedy="Correct its constructor, or the arguments",
            ) from error
    elif work.options.arguments:
        call = partial(function, **work.options.arguments)
    _built.clear()  # another run's model would keep its memory
    _built[work.folder] = call
    return call


class _Calls:
    """The calls on the items of one chunk."""

    def __init__(self, call: Callable[..., Any], items: Sequence[Any], first: int, options: FanOutOptions) -> None:
        self._call, self._items, self._first, self._options = call, items, first, options
        self._results: list[Any] = []
        """One entry for each item so far, in order; what stands for a failed item means nothing."""
        self._started: float | None = None
        """When the call began that goes on; None between calls."""
        self.failures: dict[int, Failure] = {}
        """By number of the item, from the first of all."""
        self.seconds = 0.0
        self.slowest: list[Slow] = []

    def run(self) -> None:
        """Call the function on every item, and again on those that fail, as often as the options allow."""
        started = time.perf_counter()
        size = self._options.batch_size
        with _time_limit(self._options.timeout_seconds, lambda: (len(self._results), self._started)):
            if size is None:
                self._call_each()
            else:
                for position in range(0, len(self._items), size):
                    self._call_batch(self._items[position : position + size])
            self._retry()
        self.seconds = time.perf_counter() - started

    def encoded(self, format: parts.Format) -> tuple[list[int], parts.Encoded]:
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

    def _successes(self) -> tuple[list[int], list[Any]]:
        if not self.failures:
            return list(range(self._first, self._first + len(self._results))), self._results
        succeeded = [position for position in range(len(self._results)) if self._first + position not in self.failures]
        return [self._first + position for position in succeeded], [self._results[position] for position in succeeded]

    def _call_each(self) -> None:
        """Fill the results by a loop in C, which costs a call nothing. Those before a call that raises are kept."""
        remaining, size = iter(self._items), 1
        while (begin := len(self._results)) < len(self._items):
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
        item = self._items[position]
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
            position, type(error).__name__, str(error), trace="\n".join(lines), seconds=seconds, attempts=attempts
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
            worker=_worker(),
        )


def value_text(item: Any) -> str:
    """Return the beginning of an item as text."""
    try:
        text = repr(item)
    except Exception as error:  # an object's own code may raise anything
        text = f"<{type(item).__name__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "…"


def no_result_within(seconds: float) -> str:
    """Return the error of an item that took too long."""
    return f"no result within {seconds:g} s"


@contextmanager
def _time_limit(seconds: float | None, call: Callable[[], tuple[int, float | None]]) -> Generator[None]:
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
    interval = min(limit / TICKS_PER_TIMEOUT, 1.0)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
