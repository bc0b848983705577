"""A chunk of a file becomes part files, and each of its records is counted. No Ray."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rayworks import parallel, storage
from rayworks.data import manifest, planning, processing, reading
from rayworks.data.manifest import RowCounts
from rayworks.errors import DataError, StorageError
from rayworks.params import ColumnDeclaration, ProcessOptions

NAMES = ["a*", "^.*", "count$", "count", "time", "rows", "a.b", "len"]
COLUMNS = ["id", "desc", "x", "y"]


def rows(count: int = 300) -> pl.DataFrame:
    table = [(i, f"pipe {i % 7}", i * 31 % 17, i % 2) for i in range(count)]
    return pl.DataFrame(table, COLUMNS, orient="row")


def chunks_of(uri: Path) -> list[reading.Chunk]:
    return reading.chunks(reading.source_files(str(uri)))


def process(uri: Path, folder: Path) -> RowCounts:
    chunks = chunks_of(uri)
    plan = planning.make_plan(chunks, "y", ProcessOptions(), str(folder))
    counts = RowCounts()
    for chunk in chunks:
        counts.merge(processing.process_chunk(chunk, plan))
    return counts


def test_times_in_one_file_and_numbers_in_another_are_no_numbers_together(tmp_path: Path):
    table = rows().with_columns(lists=pl.concat_list("x"), t=pl.lit(datetime(2024, 1, 31)))
    table.write_parquet(tmp_path / "a.parquet")
    table.with_columns(t=pl.lit(1700000000), lists=pl.lit("x")).write_parquet(tmp_path / "b.parquet")
    chunks = chunks_of(tmp_path)
    columns = planning.make_plan(chunks, "y", ProcessOptions(), str(tmp_path)).columns
    assert {column.name: column.kind for column in columns}["t"] == "categorical"


def test_categories_of_pandas_follow_the_rules_of_text(tmp_path: Path):
    texts = pl.DataFrame(
        {
            "work": [f" {('Private', 'State', '?')[i % 3]}" for i in range(300)],
            "number": [str(i % 7) for i in range(300)],
            "y": [("a", "", "b", "NA")[i % 4] for i in range(300)],
        }
    )
    texts.cast(pl.Categorical).to_pandas().to_parquet(tmp_path / "a.parquet")
    counts = process(tmp_path / "a.parquet", tmp_path / "dataset")
    assert counts.reasons == {"the target y is missing": 150}
    kept = pl.concat([pl.read_parquet(tmp_path / "dataset" / part / "*.parquet") for part in counts.splits])
    assert kept["number"].dtype == pl.Float64
    assert set(kept["work"]) == {"Private", "State", None}
    assert set(kept["y"]) == {"a", "b"}


@pytest.mark.parametrize("second", ["b.jsonl", "b.parquet"])
def test_true_and_false_are_two_classes_however_a_file_writes_them(tmp_path: Path, second: str):
    table = rows().with_columns(y=pl.col("y") == 1)
    table.to_pandas().to_csv(tmp_path / "a.csv", index=False)
    table.write_ndjson(tmp_path / second) if second == "b.jsonl" else table.write_parquet(tmp_path / second)
    counts = process(tmp_path, tmp_path / "dataset")
    assert set(counts.classes["train"]) == {True, False}


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

    def one_row_less(chunk: reading.Chunk, **options: bool):
        for batch in read(chunk, **options):
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


def test_a_file_of_objects_without_values_has_only_rejected_rows(tmp_path: Path):
    rows().write_ndjson(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("{}\n")
    counts = process(tmp_path, tmp_path / "dataset")
    assert (counts.rows_in, counts.reasons) == (301, {"an object without values": 1})


def test_a_split_by_time_counts_the_times_that_folders_name(tmp_path: Path):
    for day in range(1, 10):
        (tmp_path / f"day=2022-01-0{day}").mkdir()
        rows().write_parquet(tmp_path / f"day=2022-01-0{day}" / "part.parquet")
    chunks = chunks_of(tmp_path)
    plan = planning.make_plan(chunks, "y", ProcessOptions(), str(tmp_path / "dataset"))
    column = plan.time_column
    assert column is not None
    plan = plan.with_times([planning.count_times(chunk, column) for chunk in chunks])
    assert "test from 2022-01-09" in plan.splitter.describe()


def test_a_split_by_time_has_its_shares_beyond_the_rows_that_32_bits_count(tmp_path: Path):
    days = pl.datetime_range(pl.datetime(2022, 1, 1), pl.datetime(2022, 4, 10), "1d", eager=True)
    rows(100).with_columns(day=days).write_parquet(tmp_path / "a.parquet")
    [chunk] = reading.chunks(reading.source_files(str(tmp_path)))
    plan = planning.make_plan([chunk], "y", ProcessOptions(), str(tmp_path / "dataset"))
    assert plan.time_column is not None
    counts = planning.count_times(chunk, plan.time_column)
    many = counts.with_columns(pl.lit(2**31, counts.schema["rows"]).alias("rows"))
    assert plan.with_times([counts]).splitter == plan.with_times([many]).splitter


def test_times_of_day_have_no_part_in_a_split_by_time(tmp_path: Path):
    table = rows().with_columns(t=pl.datetime(2024, 1, 1) + pl.duration(days="id"))
    table.write_parquet(tmp_path / "a.parquet")
    plan = planning.make_plan(chunks_of(tmp_path), "y", ProcessOptions(), str(tmp_path / "dataset"))
    table.with_columns(pl.col("t").dt.time()).write_parquet(tmp_path / "b.parquet")
    chunks = chunks_of(tmp_path)
    plan = plan.with_times([planning.count_times(chunk, column) for chunk in chunks if (column := plan.time_column)])
    counts = [processing.process_chunk(chunk, plan) for chunk in chunks]
    assert [sum(split.rows for split in count.splits.values()) for count in counts] == [300, 0]
    assert counts[1].reasons == {"column t: not a date or time": 300}


def test_the_rows_of_a_file_that_has_only_lists_are_rejected(tmp_path: Path):
    rows().write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"lists": [[1], [2]]}).write_parquet(tmp_path / "b.parquet")
    counts = process(tmp_path, tmp_path / "dataset")
    assert (counts.rows_in, counts.reasons) == (302, {"the target y is missing": 2})
    rejected = pl.read_parquet(tmp_path / "dataset" / "rejected" / "*.parquet")
    assert rejected["record"].to_list() == ["{}", "{}"]


@pytest.mark.parametrize("target", ["a*", "^.*", "count"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_names_of_columns_are_taken_literally(tmp_path: Path, name: str, target: str):
    table = pl.DataFrame({column: [f"{(i + place) % 5}" for i in range(300)] for place, column in enumerate(NAMES)})
    table = table.with_columns(pl.Series("when", [f"2022-01-01 00:{i % 60:02}:00" for i in range(300)]))
    table.write_csv(tmp_path / name) if name == "a.csv" else table.write_parquet(tmp_path / name)
    chunks = chunks_of(tmp_path / name)
    plan = planning.make_plan(chunks, target, ProcessOptions(), str(tmp_path / "dataset"))
    plan = plan.with_times([planning.count_times(chunk, column) for chunk in chunks if (column := plan.time_column)])
    counts = processing.process_chunk(chunks[0], plan)
    parts = pl.concat([pl.read_parquet(tmp_path / "dataset" / part / "*.parquet") for part in counts.splits])
    assert len(parts) == counts.rows_in == 300
    assert {column: parts[column].cast(pl.Float64).sum() for column in NAMES} == dict.fromkeys(NAMES, 600.0)


WRITE: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": pl.DataFrame.write_csv,
    "parquet": pl.DataFrame.write_parquet,
    "jsonl": pl.DataFrame.write_ndjson,
}


def months(folder: Path, count: int, with_z: range, ending: str = "csv") -> str:
    """Files of 60 rows each, of which some have a column ``z``."""
    folder.mkdir()
    for number in range(count):
        month = rows(60).with_columns(z=pl.int_range(60) % 5)
        WRITE[ending](month if number in with_z else month.drop("z"), folder / f"{number:02}.{ending}")
    return str(folder)


@pytest.mark.parametrize("count", [2, 5, 6, 9, 14])
def test_a_column_that_only_the_last_file_has_is_used(tmp_path: Path, count: int):
    files = reading.source_files(months(tmp_path / "data", count, range(count - 1, count)))
    plan = planning.make_plan(reading.chunks(files), "y", ProcessOptions(), str(tmp_path / "dataset"))
    assert "z" in [column.name for column in plan.columns]


def test_a_column_that_no_file_of_the_sample_has_is_named_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_ray(monkeypatch)
    uri = months(tmp_path / "data", 9, range(7, 8))
    stage = processing.stage(uri, "y", ProcessOptions(), storage_uri=str(tmp_path))
    [warning] = manifest.load(stage.run()).warnings
    assert f"are not used: z (in {uri}/07.csv). To use one, declare it in process.columns" in warning


@pytest.mark.parametrize("ending", WRITE)
def test_a_column_that_is_declared_is_used_whichever_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
):
    without_ray(monkeypatch)
    uri = months(tmp_path / "data", 9, range(7, 8), ending)
    options = ProcessOptions(columns={"z": ColumnDeclaration(kind="numeric")})
    dataset = manifest.load(processing.stage(uri, "y", options, storage_uri=str(tmp_path)).run())
    assert "z" in [feature.name for feature in dataset.feature_set.features]
    assert dataset.warnings == ()
    as_target = manifest.load(processing.stage(uri, "z", ProcessOptions(), storage_uri=str(tmp_path)).run())
    assert (as_target.rows_in, as_target.rows_kept, as_target.reasons) == (540, 60, {"the target z is missing": 480})


@pytest.mark.parametrize("number", [0, 7, 8], ids=["first", "not in the sample", "last"])
@pytest.mark.parametrize("folder", ["", "day=1/"])
def test_a_csv_file_without_a_header_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folder: str
):
    without_ray(monkeypatch)
    (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(9):
        rows(62)[2:].write_csv(tmp_path / "data" / folder / f"{i}.csv", include_header=i != number)
    stage = processing.stage(str(tmp_path / "data"), "y", ProcessOptions(), storage_uri=str(tmp_path))
    words = rf"no usable header: .*/{number}\.csv \(its first line has 2, pipe 2, 11, 0, .*Write the names"
    with pytest.raises(DataError, match=words):
        stage.run()


def test_a_column_whose_points_may_be_understood_wrongly_is_named_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_ray(monkeypatch)
    (tmp_path / "data").mkdir()
    for name in ("1.csv", "2.csv"):
        lines = "".join(f"{i % 9 + 1}.{i:03};1.00{i % 9};{i // 4},5\n" for i in range(300))
        (tmp_path / "data" / name).write_text(f"residents;code;y\n{lines}")
    options = ProcessOptions(columns={"code": ColumnDeclaration(kind="ignored")})
    dataset = manifest.load(processing.stage(str(tmp_path / "data"), "y", options, storage_uri=str(tmp_path)).run())
    [warning] = dataset.warnings
    assert f"because the file has decimal commas: residents (in {tmp_path}/data/1.csv). If" in warning
    assert pl.read_parquet(f"{dataset.uri}/train/*.parquet")["residents"].min() >= 1000


def without_ray(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Process chunks here, and call functions before and after that."""

    def called(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        before()
        yield from map(work, items)
        after()

    monkeypatch.setattr(parallel, "map_unordered", called)


def write(uri: str, frame: pl.DataFrame, rows_in_group: int = 100) -> None:
    with storage.open_output(uri) as sink:
        frame.write_parquet(sink, row_group_size=rows_in_group)


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_file_that_changes_while_it_is_read_makes_no_dataset(
    place: str, monkeypatch: pytest.MonkeyPatch, change: str
):
    uri, other = storage.join(place, "data", "1.parquet"), storage.join(place, "data", "2.parquet")
    write(uri, rows(200))
    write(other, rows(200))
    if change == "replaced":
        without_ray(monkeypatch, before=lambda: write(uri, rows(600)))
    else:
        without_ray(monkeypatch, after=lambda: storage.delete(uri))
    stage = processing.stage(storage.join(place, "data", "*"), "y", ProcessOptions(), storage_uri=place)
    words = "now [0-9,]+ bytes of 20.*" if change == "replaced" else "now gone"
    with pytest.raises(DataError, match=rf"changed while it was read: {uri} \(.*{words}\).*when it is complete"):
        stage.run()
    with pytest.raises(StorageError, match="does not exist"):
        storage.list_files(storage.join(place, "datasets"))


def test_a_file_that_arrives_while_others_are_read_belongs_to_the_next_dataset(
    place: str, monkeypatch: pytest.MonkeyPatch
):
    data = storage.join(place, "data")
    write(storage.join(data, "1.parquet"), rows(200))
    without_ray(monkeypatch, lambda: write(storage.join(data, "2.parquet"), rows(200)))
    stage = processing.stage(data, "y", ProcessOptions(), storage_uri=place)
    assert manifest.load(stage.run()).rows_in == 200
