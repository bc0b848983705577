"""What columns hold is inferred from rows throughout each file, whatever the file is sorted by."""

import gzip
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from rayworks.data import planning, reading, text_files
from rayworks.data.planning import Plan
from rayworks.params import ProcessOptions

ROWS = 6000  # of a year, in the order of time
SAMPLED = ProcessOptions(sample_rows=200)
FORMATS = ["csv", "csv.gz", "jsonl", "parquet"]


@pytest.fixture(params=[500, 4000], autouse=True)
def sampled_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files of a few hundred kilobytes are sampled like those of gigabytes."""
    monkeypatch.setattr(text_files, "SAMPLED_BYTES", request.param)


def year(note: str = "a") -> pl.DataFrame:
    times = [datetime(2024, 1, 1) + timedelta(days=366 * i / ROWS) for i in range(ROWS)]
    late = [None if i < ROWS // 2 else i % 7 for i in range(ROWS)]
    return pl.DataFrame({"time": times, "late": late, "note": note, "y": [i % 2 for i in range(ROWS)]})


def write(rows: pl.DataFrame, file: Path) -> None:
    match file.suffix:
        case ".csv":
            rows.write_csv(file)
        case ".gz":
            file.write_bytes(gzip.compress(rows.write_csv().encode()))
        case ".jsonl":
            rows.with_columns(pl.col("time").dt.to_string()).write_ndjson(file)
        case _:
            rows.write_parquet(file)


def chunk_of(file: Path) -> reading.Chunk:
    (chunk,) = reading.chunks(reading.source_files(str(file)))
    return chunk


def plan_of(uri: Path, options: ProcessOptions = SAMPLED) -> Plan:
    return planning.make_plan(reading.chunks(reading.source_files(str(uri))), "y", options, "")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_in_the_order_of_time_is_more_than_its_first_days(tmp_path: Path, ending: str):
    write(year(), tmp_path / f"a.{ending}")
    plan = plan_of(tmp_path)
    assert {"time_month", "time_day_of_year"} <= {feature.name for feature in plan.feature_set.features}
    assert plan.edges["time_day_of_year"][-1] > 360
    assert next(column for column in plan.columns if column.name == "late").kind == "numeric"


@pytest.mark.parametrize("ending", FORMATS)
def test_the_last_of_many_files_is_more_than_its_first_days(tmp_path: Path, ending: str):
    for number, part in enumerate(year().iter_slices(ROWS // 6)):
        write(part, tmp_path / f"{number}.{ending}")
    assert plan_of(tmp_path).edges["time_day_of_year"][-1] > 360


@pytest.mark.parametrize("ending", FORMATS)
def test_about_as_many_rows_are_sampled_as_asked_for(tmp_path: Path, ending: str):
    write(year(), tmp_path / f"a.{ending}")
    batches = list(reading.batches(chunk_of(tmp_path), sampled=200))
    assert all(batch.records == len(batch.rows) for batch in batches)
    assert 150 <= sum(len(batch.rows) for batch in batches) <= 420


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_with_fewer_rows_than_asked_for_is_read_whole(tmp_path: Path, ending: str):
    rows = year('a "word",\nand more').head(40)
    write(rows, tmp_path / f"a.{ending}")
    chunk = chunk_of(tmp_path)
    batches = list(reading.batches(chunk, sampled=ROWS))
    assert pl.concat(batch.rows for batch in batches).equals(pl.concat(batch.rows for batch in reading.batches(chunk)))
    assert not any(batch.malformed for batch in batches)


@pytest.mark.parametrize("lines", [2, 5])
def test_values_that_span_lines_do_not_change_what_columns_hold(tmp_path: Path, lines: int):
    write(year("\n".join(['a "word", and more'] * lines)), tmp_path / "a.csv")
    sampled, whole = (plan_of(tmp_path, options) for options in (SAMPLED, ProcessOptions(sample_rows=ROWS)))
    assert [(c.name, c.kind, c.dtype) for c in sampled.columns] == [(c.name, c.kind, c.dtype) for c in whole.columns]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_without_rows_is_no_obstacle(tmp_path: Path, ending: str):
    write(year().clear(), tmp_path / f"a.{ending}")
    write(year(), tmp_path / f"b.{ending}")
    assert plan_of(tmp_path).edges["time_day_of_year"][-1] > 360


@pytest.mark.parametrize("lines", [1, 10, 11, 40, 41, 1000])
def test_the_first_and_the_last_line_of_a_text_are_sampled(tmp_path: Path, lines: int):
    (tmp_path / "a.csv").write_text("".join(f"{number:0200}\n" for number in range(lines)))
    blocks = text_files.spread(str(tmp_path / "a.csv"), "utf-8", 5)
    numbers = [int(line) for block in blocks for line in block.splitlines()]
    assert len(blocks) <= text_files.SAMPLED_BLOCKS + 1
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (0, lines - 1)
    gaps = [after - before for before, after in pairwise(numbers)]
    assert max(gaps, default=1) <= max(1, lines / 4)
