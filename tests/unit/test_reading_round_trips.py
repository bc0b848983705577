"""What pandas, Polars, Arrow and DuckDB write comes back as it was, or is rejected. No Ray."""

import csv
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv

from rayworks.data import reading, text_files

Value = str | None
DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*")
settings.register_profile("files", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("files")

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
tricky = st.sampled_from(
    ['"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", " ", "a", "1", "\\", "'", "\ufeff", "\u2028"]
)
texts = st.lists(tricky, max_size=8).map("".join) | st.text(characters, max_size=8)


def tables(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Rows of two to four values."""
    return st.integers(2, 4).flatmap(lambda width: st.lists(st.tuples(*[values] * width), min_size=1, max_size=8))


def by_pandas(rows: Sequence[tuple[Value, ...]], names: list[str], path: Path, delimiter: str, end: str, quoting: int):
    text = "|".join(value or "" for row in rows for value in row)
    assume(quoting == csv.QUOTE_ALL or not re.search(r"\r(?!\n)", text))  # which pandas does not quote
    frame = pd.DataFrame(rows, columns=pd.Index(names), dtype=object)
    frame.to_csv(path, sep=delimiter, index=False, lineterminator=end, quoting=quoting)


def by_polars(rows: Sequence[tuple[Value, ...]], names: list[str], path: Path, delimiter: str, end: str, quoting: int):
    style = "always" if quoting == csv.QUOTE_ALL else "necessary"
    frame = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")
    frame.write_csv(path, separator=delimiter, line_terminator=end, quote_style=style)


def by_arrow(rows: Sequence[tuple[Value, ...]], names: list[str], path: Path, delimiter: str, end: str, quoting: int):
    table = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row").to_arrow()
    style = "all_valid" if quoting == csv.QUOTE_ALL else "needed"
    arrow_csv.write_csv(table, path, arrow_csv.WriteOptions(delimiter=delimiter, quoting_style=style))


def by_duckdb(rows: Sequence[tuple[Value, ...]], names: list[str], path: Path, delimiter: str, end: str, quoting: int):
    table = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row").to_arrow()
    quoted = "force_quote *," if quoting == csv.QUOTE_ALL else ""
    duckdb_copy(table, path, f"format csv, header, {quoted} delimiter '{delimiter}'")


def duckdb_copy(table: pa.Table, path: Path, options: str) -> None:
    with duckdb.connect() as database:
        database.register("source", table)
        database.execute(f"copy source to '{path}' ({options})")


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a file, and how many of its records are malformed."""
    [chunk] = reading.chunks(reading.source_files(str(path)))
    batches = list(reading.batches(chunk))
    assert all(batch.records == len(batch.rows) + len(batch.malformed) for batch in batches)
    return [row for batch in batches for row in batch.rows.to_dicts()], sum(len(batch.malformed) for batch in batches)


def is_subsequence(rows: list[Any], of: list[Any]) -> bool:
    rest = iter(of)
    return all(row in rest for row in rows)


@pytest.mark.parametrize("write", [by_pandas, by_polars, by_arrow, by_duckdb])
@given(
    rows=tables(texts | st.none()),
    names=st.permutations(["a", "b c", "d{}e", 'f"g']),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block_bytes=st.sampled_from([7, 8 << 20]),
)
def test_csv_comes_back_as_text(
    write: Callable[..., None],
    rows: list[tuple[Value, ...]],
    names: list[str],
    delimiter: str,
    end: str,
    quoting: int,
    block_bytes: int,
):
    names = [name.format(delimiter) for name in names[: len(rows[0])]]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "BLOCK_BYTES", block_bytes)
        path = Path(folder) / "a.csv"
        write(rows, names, path, delimiter, end, quoting)
        back, malformed = read(path)
    written = [dict(zip(names, (value or "" for value in row), strict=True)) for row in rows]
    if delimiter == ";":  # where 1,5 is the number 1.5
        numbers = {value for row in written for value in row.values() if DECIMAL_COMMA.fullmatch(value)}
        written = [row for row in written if not numbers.intersection(row.values())]
        back = [row for row in back if not {n.replace(".", "").replace(",", ".") for n in numbers} & set(row.values())]
    assert is_subsequence(back, written)
    assert malformed or back == written


@given(
    rows=tables(texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
)
def test_json_lines_come_back_as_text(rows: list[tuple[Any, ...]]):
    records = [dict(zip("abcd", row, strict=False)) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        back, malformed = read(path)
    text = [
        {k: v if v is None or isinstance(v, str) else json.dumps(v) for k, v in record.items()} for record in records
    ]
    assert (back, malformed) == (text, 0)


@pytest.mark.parametrize(
    "write",
    [
        lambda frame, path: frame.write_ndjson(path),
        lambda frame, path: frame.to_pandas().to_json(path, orient="records", lines=True),
        lambda frame, path: duckdb_copy(frame.to_arrow(), path, "format json"),
    ],
    ids=["polars", "pandas", "duckdb"],
)
@given(rows=tables(texts))
def test_json_lines_of_other_writers_come_back(write: Callable[..., None], rows: list[tuple[str, ...]]):
    frame = pl.DataFrame(rows, ["a", "b", "c", "d"][: len(rows[0])], orient="row")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        write(frame, path)
        assert read(path) == (frame.to_dicts(), 0)


columns = {
    "text": texts,
    "whole": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "time": st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    "date": st.dates(),
    "decimal": st.decimals(-(10**20), 10**20, places=6),
    "a*b": st.integers(0, 9),
    "^.*": st.binary(max_size=4),
}


@pytest.mark.parametrize(
    "write",
    [
        lambda table, path: pq.write_table(table, path, row_group_size=3),
        lambda table, path: pl.DataFrame(table).write_parquet(path),
        lambda table, path: table.to_pandas(types_mapper=pd.ArrowDtype).to_parquet(path),
        lambda table, path: duckdb_copy(table, path, "format parquet"),
    ],
    ids=["arrow", "polars", "pandas", "duckdb"],
)
@given(rows=st.lists(st.fixed_dictionaries({k: v | st.none() for k, v in columns.items()}), min_size=1, max_size=8))
def test_parquet_comes_back_with_its_types(write: Callable[..., None], rows: list[dict[str, Any]]):
    types = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us"), pa.date32(), pa.decimal128(38, 6)]
    schema = pa.schema(list(zip(columns, [*types, pa.int8(), pa.binary()], strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        write(pa.Table.from_pylist(rows, schema), path)
        assert read(path) == (rows, 0)
