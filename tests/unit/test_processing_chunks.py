"""A chunk of a file becomes part files, and each of its records is counted. No Ray."""

from pathlib import Path

import polars as pl
import pytest

from rayworks.data import planning, processing, reading
from rayworks.data.manifest import RowCounts
from rayworks.errors import DataError
from rayworks.params import ProcessOptions

NAMES = ["a*", "^.*", "count$", "count", "time", "rows", "a.b", "len"]
COLUMNS = ["id", "desc", "x", "y"]


def rows(count: int = 300) -> pl.DataFrame:
    table = [(i, f"pipe {i % 7}", i * 31 % 17, i % 2) for i in range(count)]
    return pl.DataFrame(table, COLUMNS, orient="row")


def process(uri: Path, folder: Path) -> RowCounts:
    chunks = reading.chunks(reading.source_files(str(uri)))
    plan = planning.make_plan(chunks, "y", ProcessOptions(), str(folder))
    counts = RowCounts()
    for chunk in chunks:
        counts.merge(processing.process_chunk(chunk, plan))
    return counts


def test_a_quote_that_does_not_close_is_one_rejected_row(tmp_path: Path):
    lines = rows().write_csv().splitlines(keepends=True)
    lines[101] = '100,"5 inch pipe,6,0\n'
    (tmp_path / "a.csv").write_text("".join(lines))
    counts = process(tmp_path / "a.csv", tmp_path / "dataset")
    assert counts.rows_in == 300
    assert counts.reasons == {"a quote in this line does not close": 1}
    rejected = pl.read_parquet(tmp_path / "dataset" / "rejected" / "*.parquet")
    assert rejected.select("row", "record").rows() == [(101, '100,"5 inch pipe,6,0')]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_a_file_whose_rows_do_not_add_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    write = {"a.csv": pl.DataFrame.write_csv, "a.parquet": pl.DataFrame.write_parquet}
    write.get(name, pl.DataFrame.write_ndjson)(rows(), tmp_path / name)
    read = reading.batches

    def one_row_less(chunk: reading.Chunk):
        for batch in read(chunk):
            batch.rows = batch.rows[:-1]
            yield batch

    monkeypatch.setattr(reading, "batches", one_row_less)
    with pytest.raises(DataError, match=rf"do not add up: .*{name} \(300 records in the file, 299 read, 299 kept, 0"):
        process(tmp_path / name, tmp_path / "dataset")


def test_many_small_files_of_one_name_are_split_at_random(tmp_path: Path):
    for number, part in enumerate(rows().iter_slices(5)):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        part.write_csv(tmp_path / "data" / str(number) / "part.csv")
    counts = process(tmp_path / "data", tmp_path / "dataset")
    assert 30 < counts.splits["validation"].rows < 60
    assert 30 < counts.splits["test"].rows < 60


def test_a_split_by_time_counts_the_times_that_folders_name(tmp_path: Path):
    for day in range(1, 10):
        (tmp_path / f"day=2022-01-0{day}").mkdir()
        rows().write_parquet(tmp_path / f"day=2022-01-0{day}" / "part.parquet")
    chunks = reading.chunks(reading.source_files(str(tmp_path)))
    plan = planning.make_plan(chunks, "y", ProcessOptions(), str(tmp_path / "dataset"))
    column = plan.time_column
    assert column is not None
    plan = plan.with_times([planning.count_times(chunk, column) for chunk in chunks])
    assert "test from 2022-01-09" in plan.splitter.describe()


@pytest.mark.parametrize("target", ["a*", "^.*", "count"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_names_of_columns_are_taken_literally(tmp_path: Path, name: str, target: str):
    table = pl.DataFrame({column: [f"{(i + place) % 5}" for i in range(300)] for place, column in enumerate(NAMES)})
    table = table.with_columns(pl.Series("when", [f"2022-01-01 00:{i % 60:02}:00" for i in range(300)]))
    table.write_csv(tmp_path / name) if name == "a.csv" else table.write_parquet(tmp_path / name)
    chunks = reading.chunks(reading.source_files(str(tmp_path / name)))
    plan = planning.make_plan(chunks, target, ProcessOptions(), str(tmp_path / "dataset"))
    plan = plan.with_times([planning.count_times(chunk, column) for chunk in chunks if (column := plan.time_column)])
    counts = processing.process_chunk(chunks[0], plan)
    parts = pl.concat([pl.read_parquet(tmp_path / "dataset" / part / "*.parquet") for part in counts.splits])
    assert len(parts) == counts.rows_in == 300
    assert {column: parts[column].cast(pl.Float64).sum() for column in NAMES} == dict.fromkeys(NAMES, 600.0)
