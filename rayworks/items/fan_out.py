"""Apply a function to many items on Ray."""

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from rayworks import capacity, code_digest, import_path, parallel, ray_error, reuse, storage, storage_lock
from rayworks.cluster import places
from rayworks.errors import ItemsError, ParameterError, StorageError, TransferError, first_line
from rayworks.items import calls, function, parts, slots, sources
from rayworks.items import chunk as chunks
from rayworks.items.chunk import Chunk, Outcome, Work
from rayworks.items.chunk_size import ChunkSize
from rayworks.items.options import FanOutOptions
from rayworks.items.parts import Failure, Range
from rayworks.items.result import FanOutResult, kinds_text
from rayworks.items.slots import Slots
from rayworks.items.sources import Inline, Source
from rayworks.progress import Progress, shown
from rayworks.reuse import Stage
from rayworks.settings import Settings
from rayworks.storage_lock import Lease

RECORD = "result.json"
CHUNKS_PER_SLOT = 2
"""One runs and one waits: workers never wait for the driver, and an autoscaler sees a demand for twice the cluster."""
CHUNKS_WITHOUT_SLOTS = 16
"""Chunks that ask an autoscaler for the first nodes."""
PARTS_AFTER_CRASH = 32
"""Into how many parts a chunk is divided whose worker ended: few levels, since each costs a worker and a time limit."""
CRASHES = {"WorkerCrashedError": 2, "OutOfMemoryError": 2, "NodeDiedError": 5}
"""After how many ends of its worker an item alone is the one to blame: a node may go for reasons of its own."""


def fan_out(
    work: Callable[..., Any] | str,
    items: Iterable[Any] | str,
    options: FanOutOptions | None = None,
    *,
    progress: Progress | None = None,
    **fields: Any,
) -> FanOutResult:
    """Apply ``work`` to each item on all cores that Ray has, and return where the results are.

    In a program that is not connected to Ray it starts Ray, as ``ray_running`` does, and ends it. It may be called in a
    flow or a task as well. The same call continues a run that was stopped, and retries the items that failed::

        result = rayworks.fan_out(resize, paths, timeout_seconds=30, max_failures="1%")
        for number, size in result.results():
            ...

    Args:
        work: A function of an item, or its import path; with ``batch_size``, of a list of items, which returns a list.
            Or a class, which is built once in each worker process and called for each item. It may be called more than
            once for an item, after a crash.
        items: A sequence, or what :func:`rayworks.items.sources.of_text` understands: the URI of files.
        options: How to run.
        progress: Is told what is done. None: shown in the terminal, if there is one.
        **fields: Fields of :class:`FanOutOptions`, instead of ``options``.

    Raises:
        ItemsError: Items failed, and more than ``max_failures``. The results of the others are stored.
        ParameterError: The function, an option or the items are invalid; nothing has run.
        TransferError: Workers do not find the module of the function or of the items.
        StorageError: A file of items cannot be read, or results cannot be stored.
    """
    from pydantic import ValidationError

    try:
        chosen = options or FanOutOptions(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ParameterError("an option is invalid", where=where, detail=first["msg"], remedy="Correct it") from error
    storage_uri = Settings().storage_uri
    source = sources.of_text(items, storage_uri) if isinstance(items, str) else Inline(_sequence(items))
    with contextlib.ExitStack() as stack:
        stage = of_source(work, source, chosen, storage_uri=storage_uri)
        record = stage.find()
        if record:
            return record
        return stage.create(progress or stack.enter_context(shown()))


def of_source(
    work: Callable[..., Any] | str, source: Source, options: FanOutOptions, *, storage_uri: str
) -> Stage[FanOutResult]:
    """Return the stage that applies ``work`` to the items of ``source``.

    Raises:
        ParameterError: As for :func:`fan_out`.
    """
    callable_ = import_path.load(work) if isinstance(work, str) else work
    name = work if isinstance(work, str) else function.name_of(callable_)
    function.check_signature(callable_, name, options)
    facts = (source.fingerprint(), options.what_makes_results(), function.fingerprint(work))
    short_name = name.replace(":", ".").rpartition(".")[2].strip("<>_") or "function"
    folder = reuse.location(storage_uri, "fan-out", short_name, reuse.digest(code_digest.of_library("items"), *facts))

    def find() -> FanOutResult | None:
        return reuse.find_record(storage.join(folder, RECORD), FanOutResult)

    def create(progress: Progress) -> FanOutResult:
        def on_wait(holder: str) -> None:
            progress(0.0, f"waits for {holder}, which processes the same items")

        # Of two equal runs at a time one would delete failures that the other is about to complete by results.
        lock = storage_lock.location(storage_uri, "fan-out", folder.rpartition("/")[2])
        with storage_lock.kept(lock, on_wait) as lease:
            if record := find():
                progress(1.0, f"{record.items:,} items, processed by another run")
                return record
            with _ray_connected() as nodes_to_come:
                slots.check(options, nodes_to_come)
                run = _Run(Work(work, options, folder, Settings().stall_seconds), name, source, progress, lease)
                return run.run()

    return Stage(find, create)


def stage(function_path: str, items: str, options: FanOutOptions, *, storage_uri: str) -> Stage[FanOutResult]:
    """Return the stage of the flow: a function by its import path, and items as text.

    Raises:
        ParameterError, StorageError, DataError: As for :func:`fan_out`.
    """
    return of_source(function_path, sources.of_text(items, storage_uri), options, storage_uri=storage_uri)


def _sequence(items: Iterable[Any]) -> Sequence[Any]:
    return items if isinstance(items, Sequence) else list(items)


@contextlib.contextmanager
def _ray_connected() -> Generator[capacity.Nodes | None]:
    """Connect this process to Ray while the block runs, unless it is connected.

    Yields:
        What each kind of node has that may be added to Ray; None if that is not known.
    """
    places.prepare()
    import ray

    if ray.is_initialized():
        yield capacity.nodes_to_come() if places.is_worker() else None
        return
    cluster = places.cluster_of(Settings())
    nodes_to_come = cluster.nodes_to_come()
    cluster.acquire(capacity.growth_variable(nodes_to_come), {"log_to_driver": False})
    try:
        yield nodes_to_come
    finally:
        cluster.release()


@dataclass
class _Pending:
    """The items that no chunk has yet, and the chunks that have to be processed again. Ray asks for the next chunk."""

    source: Source
    gaps: deque[Range]
    size: ChunkSize
    slots: Callable[[], int]
    started: float = field(default_factory=time.monotonic)
    again: deque[Chunk] = field(default_factory=deque[Chunk])
    alone: deque[Chunk] = field(default_factory=deque[Chunk])
    """Chunks that are processed when no other one is on Ray."""
    on_ray: int = 0

    def __post_init__(self) -> None:
        self.remaining = sum(map(len, self.gaps))

    def __iter__(self) -> "_Pending":
        return self

    def __next__(self) -> Chunk:
        """Return the next chunk. There may be more after a ``StopIteration``: what a lost worker had."""
        if self.again:
            chunk = self.again.popleft()
        elif self.gaps:
            chunk = self._next_of_gaps()
        elif self.alone and not self.on_ray:
            chunk = self.alone.popleft()
        else:
            raise StopIteration
        self.on_ray += 1
        return chunk

    def _next_of_gaps(self) -> Chunk:
        gap, elapsed = self.gaps.popleft(), time.monotonic() - self.started
        count = min(self.size.next(self.remaining, self.slots(), elapsed), len(gap))
        if count < len(gap):
            self.gaps.appendleft(Range(gap.first + count, gap.last))
        self.remaining -= count
        items = Range(gap.first, gap.first + count - 1)
        return self.chunk(items, longest_seconds=self.size.longest_seconds(elapsed))

    def take_back(self, items: Range) -> None:
        """Let items be processed that a chunk has left."""
        self.gaps.appendleft(items)
        self.remaining += len(items)

    def chunk(self, items: Range, **state: Any) -> Chunk:
        return Chunk(items, self.source.part(items.first, len(items)), **state)


class _Run:
    """One run over the items that have no result yet."""

    def __init__(self, work: Work, name: str, source: Source, progress: Progress, lease: Lease) -> None:
        self._work, self._name, self._progress, self._lease = work, name, progress, lease
        parts.delete_failures_without_results(work.folder)
        gaps = parts.missing(work.folder, len(source))
        self._size = ChunkSize(work.options.chunk_items)
        self._slots = Slots(work.options)
        self._pending = _Pending(source, deque(gaps), self._size, self._slots)
        self._items, self._found = len(source), len(source) - self._pending.remaining
        self._done = Outcome(items=self._found)
        self._is_stored = False
        """Whether this process has seen what workers store."""
        self._started = time.monotonic()

    def run(self) -> FanOutResult:
        options, self._started = self._work.options, time.monotonic()
        allowed = options.failures_allowed(self._items)
        outcomes = parallel.map_unordered(
            _Process(self._work),
            self._pending,
            in_flight=lambda: CHUNKS_PER_SLOT * self._slots() or CHUNKS_WITHOUT_SLOTS,
            on_failure=self._after_crash,
            interrupts=True,
            max_retries=0,
            **slots.ray_options(options),
        )
        with contextlib.closing(cast(Generator[Outcome | None], outcomes)):
            for outcome in outcomes:
                self._pending.on_ray -= 1
                self._lease.check()
                if outcome is None:  # its items are processed again
                    continue
                self._add(outcome)
                if outcome.rest:
                    self._pending.take_back(outcome.rest)
                if not self._is_stored and outcome.failed < outcome.items:
                    self._is_stored = bool(self._check_stored(self._found + 1))
                if allowed is not None and self._done.failed > allowed:
                    raise self._error(f"{allowed:,} are allowed, so the run ended")
        storage.delete(storage.join(self._work.folder, chunks.ATTEMPTS))
        self._check_stored(self._items - self._done.failed)
        if self._done.failed and allowed is None:
            raise self._error("all others succeeded")
        result = self._result()
        storage.write_record(storage.join(self._work.folder, RECORD), result)
        self._progress(1.0, self._message())
        return result

    def _check_stored(self, expected: int) -> int:
        """Return for how many items this process finds a result on the storage: at least ``expected``.

        Raises:
            StorageError: There are fewer: workers write to other disks, or somebody deletes files.
        """
        stored = self._items - sum(map(len, parts.missing(self._work.folder, self._items)))
        if stored < expected:
            raise StorageError(
                f"workers have stored the results of {expected:,} items, of which {stored:,} are here",
                where=self._work.folder,
                remedy="Set RAYWORKS_STORAGE_URI to a storage that this process shares with the nodes of Ray",
            )
        return stored

    def _add(self, outcome: Outcome) -> None:
        done = self._done
        if outcome.chunk_seconds:
            self._size.learn(outcome.items, outcome.chunk_seconds, outcome.bytes, outcome.repeated_seconds)
        done.items += outcome.items
        done.failed += outcome.failed
        done.seconds += outcome.seconds
        done.kinds += outcome.kinds
        done.first_failure = done.first_failure or outcome.first_failure
        slowest = sorted([*done.slowest, *outcome.slowest], key=lambda slow: -slow.seconds)
        done.slowest = slowest[: calls.SLOWEST]
        self._progress(done.items / max(self._items, 1), self._message())

    def _message(self) -> str:
        done, seconds = self._done, time.monotonic() - self._started
        rate = (done.items - self._found) / max(seconds, 1e-3)
        left = (self._items - done.items) / rate if rate else 0.0
        failed = f", {done.failed:,} failed" if done.failed else ""
        remaining = f", {_duration(left)} left" if done.items < self._items else ""
        return f"{done.items:,} of {self._items:,} items{failed}, {rate:,.3g}/s{remaining}"

    def _after_crash(self, chunk: Chunk, error: Exception) -> Outcome | None:
        """Let the items of a chunk whose worker ended be processed again, in parts, until the item stands alone.

        Returns:
            None, or the outcome of an item alone that has ended its worker too often.

        Raises:
            Exception: The chunk failed for another reason, which concerns all items.
        """
        limit = next((limit for kind, limit in CRASHES.items() if kind in _class_names(error)), None)
        if "RaySystemError" in _class_names(error):  # before the call: it could not unpickle its arguments
            raise TransferError(
                "a worker cannot load the function or the items",
                where=self._name,
                detail=first_line(ray_error.cause(error)).removeprefix("System error: "),
                remedy="Install the module on the nodes of Ray, or put it beside the program that is started",
            ) from error
        if limit is None:
            raise parallel.explained(error) from error
        items, crashes = chunk.items, chunk.crashes + 1
        if len(items) > 1:
            size = math.ceil(len(items) / PARTS_AFTER_CRASH)
            for first in range(items.first, items.last + 1, size):
                part = Range(first, min(first + size - 1, items.last))
                self._pending.again.append(self._pending.chunk(part, is_suspect=True))
            return None
        if "OutOfMemoryError" in _class_names(error) and not chunk.runs_alone:
            # Ray ends the task that started last, not the one that takes the memory.
            self._pending.alone.append(replace(chunk, is_suspect=True, runs_alone=True))
            return None
        failure = self._crashed(chunk, error, crashes)
        if crashes < (1 if failure.kind == calls.TIMEOUT else limit) + self._work.options.retries:
            queue = self._pending.alone if chunk.runs_alone else self._pending.again
            queue.append(replace(chunk, crashes=crashes, is_suspect=True))
            return None
        parts.write_failures(self._work.folder, items, [failure])
        return Outcome(1, failed=1, kinds=Counter([failure.kind]), first_failure=chunks.sentence(failure))

    def _crashed(self, chunk: Chunk, error: Exception, attempts: int) -> Failure:
        """Return the failure of an item alone during which workers have ended."""
        worker, seconds = chunks.last_attempt(self._work.folder, chunk.items)
        limit = self._work.options.timeout_seconds
        kind, text = "WorkerCrashed", "its worker process ended, as by a segmentation fault or os._exit"
        if report := ray_error.report_of_memory([error]):
            kind, text = "OutOfMemory", f"its worker process ran out of memory: {report.detail}"
        elif "NodeDiedError" in _class_names(error):
            text = "the node of its worker was lost"
        elif limit is not None and seconds >= limit:
            kind = calls.TIMEOUT
            text = f"{calls.no_result_within(limit)}; it did not react, so its worker process was ended"
        value = calls.value_text(chunk.part.read()[0])
        return Failure(chunk.items.first, value, kind, text, "", attempts, seconds, worker)

    def _error(self, detail: str) -> ItemsError:
        done = self._done
        return ItemsError(
            f"{done.failed:,} of {self._items:,} items failed ({kinds_text(done.kinds)}); {detail}",
            where=self._work.folder,
            detail=f"the first is {done.first_failure}",
            remedy="Results and failures are stored there. The same call retries the items that failed",
        )

    def _result(self) -> FanOutResult:
        done = self._done
        return FanOutResult(
            uri=self._work.folder,
            function=self._name,
            items=self._items,
            failed=done.failed,
            failures_by_kind=dict(done.kinds),
            found=self._found,
            seconds=time.monotonic() - self._started,
            call_seconds=done.seconds,
            slowest=tuple(done.slowest),
        )


@dataclass(frozen=True)
class _Process:
    """Processes a chunk in a Ray task."""

    work: Work

    def __call__(self, chunk: Chunk) -> Outcome | None:
        return chunks.process(self.work, chunk)


def _class_names(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
