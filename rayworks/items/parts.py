"""Results and failures on the storage: files that are written whole or not at all, each for a range of items.

``results/<first>-<last>`` holds the results of the items from ``first`` to ``last``, without those that failed: they
are in ``failures/<first>-<last>``, which is written before. A later run that retries failed items writes files of
smaller ranges, within the range of the file that lacks them: of several files that cover an item, the smallest counts.
"""

import bisect
import heapq
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rayworks import storage

if TYPE_CHECKING:
    from pyarrow import Table

Format = Literal["parquet", "jsonl"]
Encoded: TypeAlias = "bytes | Table"
"""JSON lines, or an Arrow table."""
MOST_BYTES = 1024**3
"""Of one pickled result."""
RESULTS, FAILURES = "results", "failures"
ITEM, RESULT = "item", "result"
"""Columns: the number of the item from 0, and what the function returned where that is no dictionary."""
ENCODING = b"rayworks.result"
"""Key of a Parquet file's metadata: whether its results are values, rows (dictionaries), or pickled."""


@dataclass(frozen=True)
class Failure:
    """An item whose call failed, for the last time."""

    item: int
    """Its number, from 0."""
    value: str
    """The item as text, the beginning of it."""
    kind: str
    """The class of the exception, or ``Timeout``, ``WorkerCrashed``, ``OutOfMemory``, ``UnstorableResult``."""
    error: str
    traceback: str
    attempts: int
    seconds: float
    """Of the last attempt."""
    worker: str
    """Node and process id."""


@dataclass(frozen=True, order=True)
class Range:
    """The items from ``first`` to ``last``, both included, that a file is about."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def name(self) -> str:
        return f"{self.first:012}-{self.last:012}"


def encode(numbers: Sequence[int], results: Sequence[Any], format: Format) -> Encoded:
    """Return the results of the items ``numbers`` as they are stored.

    Raises:
        Exception: A result cannot be stored; :func:`problem_of` says which.
    """
    if format == "parquet":
        return _table(numbers, results)
    pairs = zip(numbers, results, strict=True)
    return "".join(f"{json.dumps({ITEM: number, RESULT: result})}\n" for number, result in pairs).encode()


def problem_of(result: Any, format: Format) -> str | None:
    """Return why a result cannot be stored; None if it can."""
    try:
        encode([0], [result], format)
    except Exception as error:  # an object's own code may raise anything when it is pickled
        return f"{type(error).__name__}: {text_of(error, str)}"
    return None


def text_of(described: Any, by: Callable[[Any], str]) -> str:
    """Return what ``str`` or ``repr`` says of an object of the user's, whatever its own code does."""
    try:
        return storable(by(described))
    except Exception as error:
        return f"<{type(described).__name__}, whose {by.__name__} raises {type(error).__name__}>"


def storable(text: str) -> str:
    """Return text that can be stored as UTF-8: half of a surrogate pair, as in file names that are not, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def size_of(results: Encoded) -> int:
    """Return how many bytes results take in memory, about as many as on the storage before compression."""
    return len(results) if isinstance(results, bytes) else results.nbytes


def write_results(folder: str, items: Range, results: Encoded) -> None:
    """Store the results of a range of items.

    Raises:
        StorageError: The storage does not take the file.
    """
    if isinstance(results, bytes):
        storage.write_bytes(storage.join(folder, RESULTS, f"{items.name}.jsonl"), results)
    else:
        _write_table(storage.join(folder, RESULTS, f"{items.name}.parquet"), results)


def write_failures(folder: str, items: Range, failures: Sequence[Failure]) -> None:
    """Store the failures among the items of a range."""
    import pyarrow as pa

    columns = {name: [getattr(failure, name) for failure in failures] for name in Failure.__dataclass_fields__}
    _write_table(storage.join(folder, FAILURES, f"{items.name}.parquet"), pa.table(columns))


def ranges(folder: str, kind: str) -> dict[Range, str]:
    """Return the URIs of the files of one kind, ``RESULTS`` or ``FAILURES``, by their ranges in order."""
    by_range: dict[Range, str] = {}
    for uri, _ in storage.files_in(storage.join(folder, kind)):
        first, _, last = uri.rpartition("/")[2].partition(".")[0].partition("-")
        by_range[Range(int(first), int(last))] = uri
    return dict(sorted(by_range.items()))


def read_results(folder: str) -> Iterator[tuple[int, Any]]:
    """Yield number and result of every item that has one, in the order of the items, a file at a time."""
    waiting = sorted(ranges(folder, RESULTS).items(), reverse=True)
    open_files: list[tuple[int, int, Any, Iterator[tuple[int, Any]]]] = []
    last = -1
    while waiting or open_files:
        # A file of a smaller range within the one that is being read begins before that one goes on.
        while waiting and (not open_files or waiting[-1][0].first <= open_files[0][0]):
            _push(open_files, _read(waiting.pop()[1]), len(waiting))
        if open_files:
            number, order, result, rest = heapq.heappop(open_files)
            if number != last:  # a run that was killed may have written once more after its successor began
                yield number, result
            last = number
            _push(open_files, rest, order)


def _push(heap: list[Any], results: Iterator[tuple[int, Any]], order: int) -> None:
    for number, result in results:
        heapq.heappush(heap, (number, order, result, results))
        return


def _read(uri: str) -> Iterator[tuple[int, Any]]:
    """Yield number and result of the items of one file."""
    from pyarrow import parquet

    with storage.open_input(uri) as source:
        if uri.endswith(".jsonl"):
            for line in source.read().splitlines():
                entry = json.loads(line)
                yield entry[ITEM], entry[RESULT]
            return
        table = parquet.read_table(source)
    encoding = (table.schema.metadata or {})[ENCODING]
    numbers = table[ITEM].to_pylist()
    if encoding == b"rows":
        yield from zip(numbers, table.drop_columns([ITEM]).to_pylist(), strict=True)
        return
    results = table[RESULT].to_pylist()
    yield from zip(numbers, map(pickle.loads, results) if encoding == b"pickled" else results, strict=True)


def read_failures(folder: str) -> Iterator[Failure]:
    """Yield the failures that no later attempt has ended, in the order of the items."""
    files = ranges(folder, FAILURES)
    rows = sorted(
        ((row, items) for items, uri in files.items() for row in _failures_of(uri)), key=lambda row: row[0].item
    )
    smallest = _smallest({*files, *ranges(folder, RESULTS)}, [failure.item for failure, _ in rows])
    return (failure for (failure, items), of_item in zip(rows, smallest, strict=True) if items == of_item)


def _failures_of(uri: str) -> list[Failure]:
    from pyarrow import parquet

    with storage.open_input(uri) as source:
        return [Failure(**row) for row in parquet.read_table(source).to_pylist()]


def _smallest(ranges: Iterable[Range], items: Iterable[int]) -> Iterator[Range | None]:
    """Yield for each of ascending items the smallest range that covers it. Ranges are nested or apart."""
    waiting = sorted(ranges, key=lambda items: (items.first, -items.last), reverse=True)
    around: list[Range] = []
    for item in items:
        while waiting and waiting[-1].first <= item:
            begins = waiting.pop()
            while around and around[-1].last < begins.first:
                around.pop()
            around.append(begins)
        while around and around[-1].last < item:
            around.pop()
        yield around[-1] if around else None


def missing(folder: str, items: int) -> list[Range]:
    """Return the ranges of items that have no result, in order: never processed, or failed."""
    results = ranges(folder, RESULTS)
    gaps: list[Range] = []
    covered = 0
    for done in results:
        if done.first > covered:
            gaps.append(Range(covered, done.first - 1))
        covered = max(covered, done.last + 1)
    if covered < items:
        gaps.append(Range(covered, items - 1))
    ends = [gap.last for gap in gaps]
    failed = [failure.item for failure in read_failures(folder)]
    return sorted(gaps + _runs(item for item in failed if not _is_in(item, gaps, ends)))


def _is_in(item: int, gaps: Sequence[Range], ends: Sequence[int]) -> bool:
    """Return whether an item lies in one of ascending ranges, whose last items are ``ends``."""
    position = bisect.bisect_left(ends, item)
    return position < len(gaps) and gaps[position].first <= item


def delete_failures_without_results(folder: str) -> None:
    """Delete the failures of chunks of which no item succeeded: a later run processes their items in other ranges."""
    results, failures = ranges(folder, RESULTS), ranges(folder, FAILURES)
    for items in failures.keys() - results.keys():
        storage.delete(failures[items])


def _runs(numbers: Iterable[int]) -> list[Range]:
    """Return ascending numbers as ranges without gaps."""
    runs: list[Range] = []
    for number in numbers:
        if runs and runs[-1].last == number - 1:
            runs[-1] = Range(runs[-1].first, number)
        else:
            runs.append(Range(number, number))
    return runs


def _table(numbers: Sequence[int], results: Sequence[Any]) -> "Table":
    """Return results as a table: plain values and dictionaries of them in columns, everything else pickled."""
    import pyarrow as pa

    # A range at once: as a list, its numbers would cost as much as trivial items.
    item = pa.arange(numbers.start, numbers.stop) if isinstance(numbers, range) else pa.array(numbers, pa.int64())
    try:
        if (column := _plain_column(results)) is not None:
            return _encoded({ITEM: item, RESULT: column}, b"values")
        if (columns := _plain_columns(results)) is not None:
            return _encoded({ITEM: item, **columns}, b"rows")
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError):  # such as integers of more than 64 bits
        pass
    pickled = pa.array([_pickled(result) for result in results], pa.large_binary())
    return _encoded({ITEM: item, RESULT: pickled}, b"pickled")


def _encoded(columns: dict[str, Any], encoding: bytes) -> "Table":
    import pyarrow as pa

    return pa.table(columns).replace_schema_metadata({ENCODING: encoding})


def _plain_column(values: Sequence[Any]) -> Any:
    """Return values as an Arrow array if they come back from it as they are; else None."""
    import pyarrow as pa

    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.large_string(), bytes: pa.large_binary()}
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    if kind in types:
        return pa.array(values, types[kind])
    if kind is not list:
        return None
    inner = set(map(type, chain.from_iterable(value for value in values if value is not None)))
    if len(inner) != 1 or (kind := inner.pop()) not in types:
        return None
    return pa.array(values, pa.large_list(types[kind]))


def _plain_columns(results: Sequence[Any]) -> dict[str, Any] | None:
    """Return dictionaries as Arrow arrays by key, if they have the same keys and plain values; else None."""
    if set(map(type, results)) != {dict}:
        return None
    names = list(results[0])
    if not names or ITEM in names or any(type(name) is not str or not name for name in names):
        return None
    if any(list(result) != names for result in results):
        return None
    columns = {name: _plain_column([result[name] for result in results]) for name in names}
    return None if any(column is None for column in columns.values()) else columns


def _pickled(value: Any) -> bytes:
    try:
        content = pickle.dumps(value, protocol=5)
    except Exception:  # of a class that was defined in the program itself
        import cloudpickle

        content = cloudpickle.dumps(value)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content) / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.1f}: store it, and return where")
    return content


def _write_table(uri: str, table: "Table") -> None:
    from pyarrow import parquet

    with storage.open_output(uri) as sink:
        parquet.write_table(table, sink, compression="zstd")
