"""Where items come from: sequences in memory, and files of text lines, JSON lines, CSV or Parquet."""

import bisect
import csv
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import BaseModel

from rayworks import reuse, storage
from rayworks.errors import DataError, ParameterError, named

if TYPE_CHECKING:
    from pyarrow import Table

Kind = Literal["text", "json", "row"]
SUFFIXES = {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
COMPRESSED = re.compile(r"\.(gz|bz2|zst|lz4)$", re.IGNORECASE)
ROWS_OF_GROUP = 10_000
"""Rows of a row group of the Parquet files that text is copied to: what a worker reads for a small chunk."""
LINE = "line"
"""The only column of such a file, unless it was CSV."""


class Part(Protocol):
    """A few consecutive items, as a worker receives them: the items themselves, or where they are."""

    def read(self) -> Sequence[Any]:
        """Return the items."""
        ...


class Source(Protocol):
    """Items that can be counted, and divided into parts."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return text that changes with the items."""
        ...

    def part(self, first: int, count: int) -> Part:
        """Return ``count`` items from the item with the number ``first``, counted from 0."""
        ...


@dataclass(frozen=True)
class InlinePart:
    """Items that travel with the chunk."""

    items: Sequence[Any]

    def read(self) -> Sequence[Any]:
        return self.items


@dataclass(frozen=True)
class Inline:
    """Items in memory: a list, a range, or any other sequence."""

    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        """Return a digest of the items.

        Raises:
            ParameterError: An item cannot be pickled.
        """
        if isinstance(self.items, range):
            return reuse.digest(self.items)
        digest = hashlib.sha256()
        for first in range(0, len(self.items), ROWS_OF_GROUP):
            digest.update(_pickled(self.items[first : first + ROWS_OF_GROUP], first))
        return digest.hexdigest()

    def part(self, first: int, count: int) -> InlinePart:
        return InlinePart(self.items[first : first + count])


def _pickled(items: Sequence[Any], first: int) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(items)
    except Exception as error:  # an object's own code may raise anything
        raise ParameterError(
            "the items cannot be pickled",
            where=f"items {first} to {first + len(items) - 1}",
            detail=named(error),
            remedy="Describe the work by plain values, such as a path or a number, and open it in the function",
        ) from error


class ItemFile(BaseModel):
    """A Parquet file whose rows are items."""

    uri: str
    rows: int
    version: str
    """Changes with the content of the file."""


class StagedFiles(BaseModel):
    """The record of the files that text was copied to."""

    kind: Kind
    files: list[ItemFile]


@dataclass(frozen=True)
class FilePart:
    """Rows of Parquet files."""

    rows: tuple[tuple[ItemFile, int, int], ...]
    """File, first row and number of rows."""
    kind: Kind

    def read(self) -> list[Any]:
        items: list[Any] = []
        for file, first, count in self.rows:
            items += _read_rows(file, first, count)
        if self.kind == "row":
            return items
        lines = [item[LINE] for item in items]
        return [json.loads(line) for line in lines] if self.kind == "json" else lines


class Files:
    """Items in Parquet files."""

    def __init__(self, files: list[ItemFile], kind: Kind) -> None:
        self._files = files
        self._kind: Kind = kind
        self._ends = list(accumulate(file.rows for file in files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def fingerprint(self) -> str:
        return reuse.digest(self._kind, [file.model_dump() for file in self._files])

    def part(self, first: int, count: int) -> FilePart:
        rows: list[tuple[ItemFile, int, int]] = []
        position = bisect.bisect_right(self._ends, first)
        while count and position < len(self._files):
            begin = self._ends[position - 1] if position else 0
            taken = min(count, self._ends[position] - first)
            rows.append((self._files[position], first - begin, taken))
            first, count, position = first + taken, count - taken, position + 1
        return FilePart(tuple(rows), self._kind)


def _read_rows(file: ItemFile, first: int, count: int) -> list[dict[str, Any]]:
    """Return rows of a file as dictionaries, by the names of its columns."""
    starts = _group_starts(file.uri, file.version)
    rows: list[dict[str, Any]] = []
    for group, (start, end) in enumerate(pairwise(starts)):
        low, high = max(first, start), min(first + count, end)
        if low < high:
            rows += _row_group(file.uri, file.version, group).slice(low - start, high - low).to_pylist()
    return rows


@functools.lru_cache(maxsize=64)
def _group_starts(uri: str, version: str) -> tuple[int, ...]:
    """Return the number of the first row of each row group, and of the first row that the file does not have."""
    from pyarrow import parquet

    with storage.open_input(uri) as source:
        metadata = parquet.ParquetFile(source).metadata
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return tuple(accumulate(sizes, initial=0))


@functools.lru_cache(maxsize=1)  # chunks of one row group often come to the same worker
def _row_group(uri: str, version: str, group: int) -> "Table":
    from pyarrow import parquet

    with storage.open_input(uri) as source:
        return parquet.ParquetFile(source).read_row_group(group)


def of_text(items: str, storage_uri: str) -> Source:
    """Return the items that a parameter names: a range such as ``0:1000``, a JSON list, or the URI of files.

    Files that are not Parquet are checked and copied once to Parquet beneath ``storage_uri``, so that workers can read
    any range of them, and every item is known to be readable before the first one is processed.

    Raises:
        ParameterError: The text is none of them.
        StorageError: There is no such file, or it cannot be read.
        DataError: A file has a line that cannot be read.
    """
    text = items.strip()
    if bounds := re.fullmatch(r"(-?\d+):(-?\d+)(?::(-?[1-9]\d*))?", text):
        return Inline(range(*(int(bound) for bound in bounds.groups() if bound is not None)))
    if text.startswith("["):
        try:
            return Inline(json.loads(text))
        except ValueError as error:
            raise ParameterError(
                "the items are not a JSON list",
                where=text[:60],
                detail=str(error),
                remedy='Write it as ["a", "b"], or name a file',
            ) from error
    return of_files(text, storage_uri)


def of_files(uri: str, storage_uri: str) -> Files:
    """Return the rows or lines of all files at ``uri`` (a file, folder or glob) as items, in order of their names.

    Raises:
        StorageError, DataError: As for :func:`of_text`.
    """
    listed = storage.list_files(storage.absolute(uri))
    formats = {_format_of(file) for file, _ in listed}
    if len(formats) > 1:
        raise DataError(
            "the files have different formats",
            where=uri,
            detail=", ".join(sorted(formats)),
            remedy="Name those of one format by a glob, such as folder/*.csv",
        )
    versions = {file: f"{info.size}-{info.mtime}" for file, info in listed}
    if (file_format := formats.pop()) == "parquet":
        return Files([_parquet_file(file, version) for file, version in versions.items()], kind="row")
    fingerprint = reuse.digest("items", 1, sorted(versions.items()))
    folder = reuse.location(storage_uri, "items", file_format, fingerprint)
    record = storage.join(folder, "files.json")
    staged = reuse.find_record(record, StagedFiles)
    if staged is None:
        staged = _stage(file_format, list(versions), folder)
        storage.write_record(record, staged)
    return Files(staged.files, kind=staged.kind)


def _stage(file_format: str, uris: list[str], folder: str) -> StagedFiles:
    """Copy files of text to Parquet."""
    readers: dict[str, tuple[Callable[[str], Iterator[dict[str, str]]], Kind]] = {
        "text": (_lines, "text"),
        "json": (_json_lines, "json"),
        "csv": (_csv_rows, "row"),
    }
    rows, kind = readers[file_format]
    targets = (storage.join(folder, f"{number:06}.parquet") for number in range(len(uris)))
    copies = [_copy(uri, rows(uri), target) for uri, target in zip(uris, targets, strict=True)]
    return StagedFiles(kind=kind, files=copies)


def _format_of(uri: str) -> str:
    name = COMPRESSED.sub("", uri.rpartition("/")[2].lower())
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), "text")


def _parquet_file(uri: str, version: str) -> ItemFile:
    import pyarrow as pa

    try:
        return ItemFile(uri=uri, rows=_group_starts(uri, version)[-1], version=version)
    except pa.ArrowInvalid as error:
        raise DataError(
            "this is not a Parquet file", where=uri, detail=str(error), remedy="Rename or remove it"
        ) from error


def _copy(uri: str, rows: Iterator[dict[str, str]], target: str) -> ItemFile:
    """Write rows of text to a Parquet file, in small row groups."""
    import pyarrow as pa
    from pyarrow import parquet

    number, writer = 0, None
    with storage.open_output(target) as sink:
        for group in _in_groups(rows):
            table = pa.table({name: pa.array([row[name] for row in group], pa.large_string()) for name in group[0]})
            writer = writer or parquet.ParquetWriter(sink, table.schema, compression="zstd")
            writer.write_table(table)
            number += len(group)
        if writer is None:
            writer = parquet.ParquetWriter(sink, pa.schema([(LINE, pa.large_string())]))
        writer.close()
    return ItemFile(uri=target, rows=number, version=reuse.digest(uri, target))


def _in_groups(rows: Iterable[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    group: list[dict[str, str]] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS_OF_GROUP:
            yield group
            group = []
    if group:
        yield group


def _read(uri: str, parse: Callable[[TextIOWrapper], Iterator[dict[str, str]]]) -> Iterator[dict[str, str]]:
    """Yield what ``parse`` makes of the text of a file, which may be compressed."""
    with storage.explained(uri, "read"):
        files, path = storage.filesystem(uri)
        with files.open_input_stream(path, compression="detect") as source:
            text = TextIOWrapper(cast(Any, source), encoding="utf-8-sig", newline="")
            try:
                yield from parse(text)
            except UnicodeDecodeError as error:
                raise DataError(
                    "the file is not UTF-8", where=uri, detail=str(error), remedy="Convert it, for example by iconv"
                ) from error


def _numbered_lines(text: TextIOWrapper) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    text.reconfigure(newline=None)
    for number, line in enumerate(text, 1):
        if line := line.rstrip("\n"):
            yield number, line


def _lines(uri: str) -> Iterator[dict[str, str]]:
    return _read(uri, lambda text: ({LINE: line} for _, line in _numbered_lines(text)))


def _json_lines(uri: str) -> Iterator[dict[str, str]]:
    def parse(text: TextIOWrapper) -> Iterator[dict[str, str]]:
        for number, line in _numbered_lines(text):
            if not line.strip():
                continue
            try:
                json.loads(line)
            except ValueError as error:
                raise DataError(
                    "a line is not JSON", where=f"{uri}, line {number}", detail=str(error), remedy="Correct the line"
                ) from error
            yield {LINE: line}

    return _read(uri, parse)


def _csv_rows(uri: str) -> Iterator[dict[str, str]]:
    """Yield rows by the names in the first line; every value is text, as from ``csv.DictReader``."""
    separator = "\t" if COMPRESSED.sub("", uri.lower()).endswith(".tsv") else ","

    def parse(text: TextIOWrapper) -> Iterator[dict[str, str]]:
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names):
                raise csv.Error("two columns have the same name")
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise csv.Error(f"{len(row)} values for {len(names)} columns")
                yield dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise DataError(
                "a row cannot be read",
                where=f"{uri}, line {reader.line_num}",
                detail=str(error),
                remedy="Correct the row, or convert the file to Parquet",
            ) from error

    return _read(uri, parse)
