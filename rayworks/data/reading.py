"""Read files in batches of rows: Parquet with its types, CSV and JSON lines as text.

Knows neither Ray nor what the columns mean.
"""

import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, cast

import polars as pl

from rayworks import storage
from rayworks.errors import DataError, ParameterError
from rayworks.records import SourceFile

if TYPE_CHECKING:
    from pyarrow.lib import NativeFile

Format = Literal["parquet", "csv", "jsonl"]
EXAMPLE_SCHEME = "example://"
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
CHUNK_ROWS = 500_000  # a chunk is one task: large enough to hide its start, small enough to spread over workers
BATCH_ROWS = 100_000  # rows in memory at a time, and in each row group that is written
MISSING_TEXT = (  # those of pandas, and the question mark of the UCI repository
    *("", "?", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
    *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)


@dataclass(frozen=True)
class Chunk:
    """The part of a file that one task reads: all of a text file, or row groups ``first_group`` up to ``last_group``
    (excluded) of a Parquet file."""

    number: int
    uri: str
    format: Format
    first_group: int = 0
    last_group: int = 0
    first_row: int = 0


@dataclass
class Batch:
    """Consecutive rows of a file."""

    rows: pl.DataFrame
    first_row: int
    """Number of the first row in its file, from 1."""
    malformed: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    """Row number, text and reason of the lines that could not be parsed as rows."""


def resolve(uri: str, storage_uri: str) -> str:
    """Return the absolute URI of the data; ``example://flights`` is written to the storage on first use.

    Raises:
        ParameterError: There is no such example.
    """
    if not uri.startswith(EXAMPLE_SCHEME):
        return storage.absolute(uri)
    from rayworks.data.examples import flights

    name, _, rest = uri.removeprefix(EXAMPLE_SCHEME).partition("/")
    if name != "flights":
        raise ParameterError("no such example", where=uri, remedy="Use example://flights")
    folder = storage.join(storage.absolute(storage_uri), "examples", name)
    flights.write(folder)
    return storage.join(folder, rest) if rest else folder


def source_files(uri: str, declared: Format | Literal["auto"] = "auto") -> list[tuple[SourceFile, Format]]:
    """Return the data files at ``uri`` (a file, folder or glob) with their formats.

    Other files in a folder, such as a README, are ignored.

    Raises:
        StorageError: Nothing exists at ``uri``.
        DataError: No file has a known format.
    """
    sources: list[tuple[SourceFile, Format]] = []
    listed = storage.list_files(uri)
    for file_uri, info in listed:
        kind = declared if declared != "auto" else _format_of(file_uri)
        if kind is not None and (declared == "auto" or len(listed) == 1 or _format_of(file_uri) in (declared, None)):
            sources.append((SourceFile(uri=file_uri, bytes=info.size, modified=info.mtime), kind))
    if not sources:
        raise DataError(
            "there is no data file",
            where=uri,
            detail=f"found {', '.join(u.rpartition('/')[2] for u, _ in listed[:5])}",
            remedy=f"Name files that end in {', '.join(SUFFIXES)}, or set process.format",
        )
    return sources


def _format_of(uri: str) -> Format | None:
    name = uri.rpartition("/")[2].lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def chunks(files: list[tuple[SourceFile, Format]]) -> list[Chunk]:
    """Divide ``files`` into chunks, in order. Parquet is cut between row groups; a text file is one chunk.

    Raises:
        DataError: A file does not have the format that its name says.
    """
    divided: list[Chunk] = []
    for file, kind in files:
        if kind == "parquet":
            divided += _parquet_chunks(file.uri, len(divided))
        else:
            divided.append(Chunk(len(divided), file.uri, kind))
    return divided


def _parquet_chunks(uri: str, number: int) -> list[Chunk]:
    divided: list[Chunk] = []
    with _parquet(uri) as file:
        metadata = file.metadata
        first_group, first_row, rows = 0, 0, 0
        for group in range(metadata.num_row_groups):
            rows += metadata.row_group(group).num_rows
            if rows - first_row >= CHUNK_ROWS or group == metadata.num_row_groups - 1:
                divided.append(Chunk(number + len(divided), uri, "parquet", first_group, group + 1, first_row))
                first_group, first_row = group + 1, rows
    return divided


def batches(chunk: Chunk, columns: list[str] | None = None) -> Iterator[Batch]:
    """Yield the rows of a chunk, at most about ``BATCH_ROWS`` at a time.

    Args:
        chunk: What to read.
        columns: The columns to read, as far as the file has them; None reads all.

    Raises:
        StorageError: The file no longer exists or cannot be read.
        DataError: It does not have the format of the chunk.
    """
    if chunk.format == "parquet":
        yield from _parquet_batches(chunk, columns)
        return
    for batch in _csv_batches(chunk) if chunk.format == "csv" else _jsonl_batches(chunk):
        if columns is not None:
            batch.rows = batch.rows.select([name for name in columns if name in batch.rows.columns])
        yield batch


@contextmanager
def _parquet(uri: str) -> Generator[Any]:
    """Open a Parquet file. Arrow's errors become a DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open_input(uri) as source:
        try:
            file: Any = pq.ParquetFile(source)
            _check_names(file.schema_arrow.names, uri)
            yield file
        except pa.ArrowException as error:
            raise _unreadable(uri, "Parquet", error) from error


def _parquet_batches(chunk: Chunk, columns: list[str] | None) -> Iterator[Batch]:
    import pyarrow as pa

    row = chunk.first_row + 1
    with _parquet(chunk.uri) as file:
        groups = list(range(chunk.first_group, chunk.last_group))
        present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=present):
            rows = cast(pl.DataFrame, pl.from_arrow(pa.Table.from_batches([batch])))
            yield Batch(rows, row)
            row += len(rows)


def _csv_batches(chunk: Chunk) -> Iterator[Batch]:
    import pyarrow as pa
    from pyarrow import csv

    malformed: list[tuple[int, str, str]] = []

    def reject(bad: Any) -> str:
        reason = f"the line has {bad.actual_columns} values instead of {bad.expected_columns}"
        malformed.append((bad.number - 1 if bad.number else row, bad.text, reason))  # the header is row 1 of the file
        return "skip"

    row = 1
    try:
        header, delimiter = _csv_header(chunk.uri)
        names = [name or f"unnamed_{place}" for place, name in enumerate(header, start=1)]
        parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=reject)
        convert = csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
        options = csv.ReadOptions(use_threads=False, block_size=8 << 20)
        with _text(chunk.uri) as source, csv.open_csv(source, options, parse, convert) as reader:
            for batch in reader:
                rows = cast(pl.DataFrame, pl.from_arrow(pa.Table.from_batches([batch]).rename_columns(names)))
                yield Batch(_with_points(rows) if delimiter == ";" else rows, row, list(malformed))
                row += len(rows) + len(malformed)
                malformed.clear()
    except pa.ArrowInvalid as error:
        remedy = "Save it as UTF-8" if "UTF8" in str(error) else "Check the file, or set process.format"
        raise _unreadable(chunk.uri, "CSV", error, remedy) from error
    if malformed:
        yield Batch(pl.DataFrame(schema=dict.fromkeys(names, pl.String)), row, malformed)


def _csv_header(uri: str) -> tuple[list[str], str]:
    """The column names, and the delimiter: whichever of ``, ; tab |`` is most frequent in the first line."""
    import csv

    with _text(uri) as source:
        text = TextIOWrapper(cast(Any, source), encoding="utf-8-sig", newline="")
        try:
            line = text.readline()
            delimiter = max(",;\t|", key=line.count)
            names = next(
                csv.reader(chain([line], text), delimiter=delimiter), []
            )  # a quoted name may hold a line break
        except UnicodeDecodeError as error:
            raise _unreadable(uri, "CSV", error, "Save it as UTF-8") from error
        except csv.Error as error:
            raise _unreadable(uri, "CSV", error) from error
        finally:
            text.detach()
    if not any(names):
        reason = "its first line names no column" if names else "the file is empty"
        raise DataError("the CSV file has no usable header", where=uri, detail=reason, remedy="Give each column a name")
    _check_names([name for name in names if name], uri)
    return names, delimiter


def _check_names(names: Sequence[str], uri: str) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError("two columns have the same name", where=uri, detail=", ".join(repeated), remedy="Rename one")


def _with_points(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with decimal commas turned into points. Files separated by semicolons use commas in numbers."""
    text = pl.all()
    comma = text.str.contains(r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*$")
    point = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    return rows.select(pl.when(comma).then(point).otherwise(text))


def _jsonl_batches(chunk: Chunk) -> Iterator[Batch]:
    records: list[dict[str, str | None]] = []
    malformed: list[tuple[int, str, str]] = []
    row = first_row = 1
    with _text(chunk.uri) as source:
        text = TextIOWrapper(cast(Any, source), encoding="utf-8-sig", errors="replace")
        for row, line in enumerate(text, start=1):
            if line.strip():
                record = _json_record(line)
                if isinstance(record, str):
                    malformed.append((row, line.rstrip("\n"), record))
                else:
                    records.append(record)
            if len(records) + len(malformed) >= BATCH_ROWS:
                yield Batch(_text_frame(records), first_row, malformed)
                records, malformed, first_row = [], [], row + 1
        text.detach()
    if records or malformed:
        yield Batch(_text_frame(records), first_row, malformed)


def _json_record(line: str) -> dict[str, str | None] | str:
    """The values of a line as text, or the reason why it cannot be used."""
    try:
        parsed: Any = json.loads(line)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(parsed, dict):
        return "not a JSON object"
    items = cast(dict[str, Any], parsed).items()
    return {
        key: value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in items
    }


def _text_frame(records: list[dict[str, str | None]]) -> pl.DataFrame:
    names = dict.fromkeys(name for record in records for name in record)
    return pl.DataFrame(
        {name: [record.get(name) for record in records] for name in names}, dict.fromkeys(names, pl.String)
    )


@contextmanager
def _text(uri: str) -> "Generator[NativeFile]":
    """Open a text file as bytes, decompressed according to its name."""
    with storage.explained(uri, "read"):
        files, path = storage.filesystem(uri)
        with files.open_input_stream(path, compression="detect") as stream:
            yield stream


def _unreadable(
    uri: str, kind: str, error: Exception, remedy: str = "Check the file, or set process.format"
) -> DataError:
    return DataError(f"the file is not readable as {kind}", where=uri, detail=str(error).splitlines()[0], remedy=remedy)
