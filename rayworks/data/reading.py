"""Read files in batches of rows: Parquet with its types, CSV and JSON lines as text.

Knows neither Ray nor what the columns mean.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, NamedTuple
from urllib.parse import unquote

import polars as pl

from rayworks import storage
from rayworks.data import csv_files, json_lines, parquet_files
from rayworks.data.batches import Batch, check_names, enumerated
from rayworks.errors import DataError, ParameterError, StorageError
from rayworks.records import SourceFile

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
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
TABLE_LOGS = {
    "Delta Lake": re.compile(r"/_delta_log/"),
    "Apache Hudi": re.compile(r"/\.hoodie/"),
    "Apache Iceberg": re.compile(r"/metadata/[^/]+\.metadata\.json$"),
}
MISSING_TEXT = (  # those of pandas, and the question mark of the UCI repository
    *("", "?", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
    *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)


class DataFile(NamedTuple):
    """A file of the data."""

    source: SourceFile
    format: Format
    path: str
    """Its path beneath the folder that was named: tells files of the same name apart, wherever the folder is."""
    partitions: tuple[tuple[str, str | None], ...]
    """Names and values from its folders, those that end the path of the named folder among them."""


@dataclass(frozen=True)
class Chunk:
    """The part of a file that one task reads: all of a text file, or row groups ``first_group`` up to ``last_group``
    (excluded) of a Parquet file."""

    number: int
    uri: str
    format: Format
    path: str
    partitions: tuple[tuple[str, str | None], ...] = ()
    encoding: str = "utf-8"
    first_group: int = 0
    last_group: int = 0
    first_row: int = 0


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


def source_files(uri: str, declared: Format | Literal["auto"] = "auto") -> list[DataFile]:
    """Return the data files at ``uri`` (a file, folder or glob).

    Other files in a folder, such as a README, are ignored.

    Raises:
        StorageError: Nothing exists at ``uri``.
        DataError: No file has a known format, all are empty, or they belong to a table with a log of its own.
    """
    listing = storage.listing(uri)
    _check_no_table_log(uri, listing)
    files: list[DataFile] = []
    named = [*takewhile(_names_value, reversed(listing.folder.split("/")))][::-1]
    for file_uri, info in listing.files:
        kind = declared if declared != "auto" else format_of(file_uri)
        if kind and (declared == "auto" or len(listing.files) == 1 or format_of(file_uri) in (declared, None)):
            source = SourceFile(uri=file_uri, bytes=info.size, modified=info.mtime)
            path = info.path.removeprefix(f"{listing.folder}/")
            files.append(DataFile(source, kind, path, _partitions([*named, *path.split("/")[:-1]])))
    if not files:
        raise DataError(
            "there is no data file",
            where=uri,
            detail=f"found {', '.join(u.rpartition('/')[2] for u, _ in listing.files[:5])}",
            remedy=f"Name files that end in {', '.join(SUFFIXES)}, or set process.format",
        )
    if not any(file.source.bytes for file in files):
        raise DataError("the data are empty", where=uri, detail="no file has a byte", remedy="Write the files again")
    return files


def of_all(
    uris: Sequence[str], declared: Format | Literal["auto"] = "auto", only: Sequence[str] | None = None
) -> list[DataFile]:
    """Return the data files at all of ``uris``, as :func:`source_files` does; a file that several name once.

    Args:
        only: The URIs of the files to return of those. None: all. A file that is chosen like this keeps its path
            beneath the folder, on which the values that folders name and a random split depend.

    Raises:
        ParameterError: No URI is given.
    """
    if not uris:
        raise ParameterError("no data are named", where="uri", remedy="Name at least one file, folder or glob")
    files = {file.source.uri: file for uri in uris for file in source_files(uri, declared)}
    chosen = None if only is None else set(only)
    return [file for uri, file in files.items() if chosen is None or uri in chosen]


def check_unchanged(files: Sequence[SourceFile], uris: Sequence[str]) -> None:
    """Check that ``files`` are still as they were listed at ``uris``: what was read may be another version otherwise.

    Raises:
        DataError: One has another size or time, or is gone.
        StorageError: They cannot be listed.
    """
    now: dict[str, SourceFile] = {}
    for uri in uris:
        try:
            listed = storage.list_files(uri)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            continue
        now |= {found: SourceFile(uri=found, bytes=info.size, modified=info.mtime) for found, info in listed}
    for file in files:
        if (found := now.get(file.uri)) != file:
            before, after = (f"{each.bytes:,} bytes of {each.modified}" if each else "gone" for each in (file, found))
            raise DataError(
                "a file changed while it was read",
                where=file.uri,
                detail=f"{before}, now {after}",
                remedy="Run again when it is complete",
            )


def _check_no_table_log(uri: str, listing: storage.Listing) -> None:
    """Raise ``DataError`` if a log beneath the folder, in it or above it says which files and rows count."""
    first_uri, info = listing.files[0]
    folder = first_uri.removesuffix(info.path.removeprefix(listing.folder))
    paths = [*listing.everything, *_logs_above(folder)]
    table = next((name for path in paths for name, log in TABLE_LOGS.items() if log.search(f"/{path}")), None)
    if table:
        raise DataError(
            f"this is a table of {table}",
            where=uri,
            detail="its log says which files and rows count, and rayworks does not read it: deleted rows would return",
            remedy=f"Export the table to Parquet files with {table}, and name their folder",
        )


def _logs_above(folder: str) -> list[str]:
    """Paths of what may be a table's log in ``folder`` and the two folders above it, where a partition's table is."""
    levels = min(3, folder.rpartition("://")[2].count("/") + 1)
    paths: list[str] = []
    for place in [folder.rsplit("/", level)[0] for level in range(levels)]:
        with suppress(StorageError):  # who may read the data need not have access to what is above them
            paths += [f"{name}/" for name in ("_delta_log", ".hoodie") if storage.exists(storage.join(place, name))]
            if storage.exists(metadata := storage.join(place, "metadata")):
                paths += [uri for uri, _ in storage.list_files(metadata)]
    return paths


def format_of(uri: str) -> Format | None:
    """Return the format that the name of a file says; None for other files."""
    name = uri.rpartition("/")[2].lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def chunks(files: list[DataFile], encoding: str = "utf-8") -> list[Chunk]:
    """Divide ``files`` into chunks, in order. Parquet is cut between row groups; a text file is one chunk, and a file
    without a byte none.

    Raises:
        DataError: A file does not have the format that its name says.
    """
    divided: list[Chunk] = []
    for file in files:
        if not file.source.bytes:
            continue
        if file.format == "parquet":
            divided += _parquet_chunks(file, len(divided))
        else:
            divided.append(Chunk(len(divided), file.source.uri, file.format, file.path, file.partitions, encoding))
    return divided


def _parquet_chunks(file: DataFile, number: int) -> list[Chunk]:
    divided: list[Chunk] = []
    uri = file.source.uri
    with parquet_files.opened(uri) as opened:
        metadata = opened.metadata
    first_group, first_row, rows = 0, 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows - first_row >= CHUNK_ROWS or group == metadata.num_row_groups - 1:
            chunk = Chunk(
                number + len(divided),
                uri,
                "parquet",
                file.path,
                file.partitions,
                first_group=first_group,
                last_group=group + 1,
                first_row=first_row,
            )
            divided.append(chunk)
            first_group, first_row = group + 1, rows
    return divided


def batches(
    chunk: Chunk, columns: list[str] | None = None, *, enums: bool = False, sampled: int | None = None
) -> Iterator[Batch]:
    """Yield the rows of a chunk, at most about 100,000 at a time, with the values that its folders name
    (``year=2022/``) as columns.

    Args:
        chunk: What to read.
        columns: The columns to read, as far as the file has them; None reads all.
        enums: Return text of few distinct values as ``pl.Enum``.
        sampled: Yield only about so many rows to twice as many, spread over the chunk. Their numbers mean nothing.

    Raises:
        StorageError: The file no longer exists or cannot be read.
        DataError: It does not have the format of the chunk.
    """
    match chunk.format:
        case "parquet":
            groups = range(chunk.first_group, chunk.last_group)
            read = parquet_files.batches(chunk.uri, groups, chunk.first_row + 1, columns, enums, sampled)
        case "csv":
            read = csv_files.batches(chunk.uri, chunk.encoding, sampled)
        case "jsonl":
            read = json_lines.batches(chunk.uri, chunk.encoding, sampled)
    partitions = dict(chunk.partitions)
    for batch in read:
        named = [name for name in partitions if name not in batch.rows.columns]
        rows = batch.records - len(batch.malformed)
        added = [pl.Series(name, [partitions[name]], pl.String).new_from_index(0, rows) for name in named]
        batch.rows = batch.rows.hstack(added) if added else batch.rows
        check_names(batch.rows.columns, chunk.uri)
        if columns is not None:
            batch.rows = batch.rows[[name for name in columns if name in batch.rows.columns]]
        batch.rows = enumerated(batch.rows) if enums else batch.rows
        yield batch


def column_names(chunk: Chunk) -> set[str]:
    """Return the columns of a chunk, those of its folders among them. Of JSON lines, only the first ones are read."""
    match chunk.format:
        case "parquet":
            with parquet_files.opened(chunk.uri) as file:
                names = file.schema_arrow.names
        case "csv":
            names = csv_files.column_names(chunk.uri, chunk.encoding)
        case "jsonl":
            names = json_lines.column_names(chunk.uri, chunk.encoding)
    return {*names, *dict(chunk.partitions)}


def _partitions(folders: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """The values that folders name, as Hive and Spark write them: ``year=2022``."""
    pairs = [folder.split("=", 1) for folder in folders if _names_value(folder)]
    return tuple((unquote(name), None if value == NO_PARTITION else unquote(value)) for name, value in pairs)


def _names_value(folder: str) -> bool:
    return "=" in folder.strip("=")
