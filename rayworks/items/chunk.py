"""The worker's side: call the function on each item of a chunk, and store its results and failures."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rayworks import import_path, storage
from rayworks.errors import ParameterError, named
from rayworks.items import parts
from rayworks.items.calls import Calls, Slow, worker_name
from rayworks.items.function import is_built, name_of
from rayworks.items.options import FanOutOptions
from rayworks.items.parts import Failure, Range
from rayworks.items.sources import Part
from rayworks.settings import STALL_SECONDS

ATTEMPTS = "attempts"
"""Folder where a worker notes that it processes items during which another one ended."""


@dataclass(frozen=True)
class Work:
    """What is the same for all chunks of a run."""

    function: Callable[..., Any] | str
    """The function or class, or its import path."""
    options: FanOutOptions
    folder: str
    """URI of the run's results."""
    stall_seconds: float = STALL_SECONDS
    """After how long a call is named in the output of its worker, with what it is doing."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items that one Ray task processes."""

    items: Range
    part: Part
    crashes: int = 0
    """How often a worker ended while it processed this chunk."""
    is_suspect: bool = False
    """Whether a worker ended while it processed these items, perhaps with others."""
    runs_alone: bool = False
    """Whether the run has no other chunk on Ray meanwhile."""
    longest_seconds: float = math.inf
    """After how long the items that were not called yet are left to other chunks."""


@dataclass
class Outcome:
    """What a chunk cost, and how many items failed. The results are on the storage."""

    items: int
    rest: Range | None = None
    """The items that were not called, since those before took longer than was known."""
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
        storage.write_bytes(_attempt_uri(work.folder, chunk.items), f"{worker_name()} {time.time()}".encode())
    started = time.perf_counter()
    call = _callable(work)
    first = chunk.items.first
    calls = Calls(call, chunk.part.read(), first, work.options, work.stall_seconds, chunk.longest_seconds)
    prepared = time.perf_counter()
    calls.run()
    items = Range(first, first + calls.done - 1)
    numbers, results = calls.encoded(work.options.format)
    if calls.failures:
        parts.write_failures(work.folder, items, [calls.failures[number] for number in sorted(calls.failures)])
    if numbers:
        parts.write_results(work.folder, items, results)
    if chunk.is_suspect:
        storage.delete(_attempt_uri(work.folder, chunk.items))
    # With GPUs Ray ends the process, to free their memory, so the next chunk prepares again.
    repeated = prepared - started if work.options.num_gpus else 0.0
    failed = min(calls.failures, default=None)
    return Outcome(
        items=calls.done,
        rest=None if items == chunk.items else Range(items.last + 1, chunk.items.last),
        failed=len(calls.failures),
        seconds=calls.seconds,
        chunk_seconds=time.perf_counter() - prepared,
        repeated_seconds=repeated,
        bytes=parts.size_of(results) if numbers else 0,
        kinds=Counter(failure.kind for failure in calls.failures.values()),
        slowest=sorted(calls.slowest, key=lambda slow: -slow.seconds),
        first_failure="" if failed is None else sentence(calls.failures[failed]),
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
                detail=named(error),
                remedy="Correct its constructor, or the arguments",
            ) from error
    elif work.options.arguments:
        call = partial(function, **work.options.arguments)
    _built.clear()  # another run's model would keep its memory
    _built[work.folder] = call
    return call
