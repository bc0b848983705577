"""Text of few distinct values is processed by these, with the same result. No Ray."""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayworks import parallel
from rayworks.data import manifest, parquet_files, processing, reading
from rayworks.params import ColumnDeclaration, ProcessOptions, SplitOptions
from rayworks.records import SPLITS, Dataset

ROWS = 120_000
GROUP = ROWS // 2  # each row group has dictionaries of its own
FUNCTION = "tests.unit.feature_functions:that_appends_to_words"


def table() -> pl.DataFrame:
    numbers = range(ROWS)
    return pl.DataFrame(
        {
            "x": [i * 31 % 17 for i in numbers],
            "word": [f"word {i * 7 % 60 + i // GROUP * 20}" for i in numbers],
            "untidy": [("a", " b", "NA", "c ", None, "")[i % 6] for i in numbers],
            "digits": [("1", "20", "x", "-3")[i * 3 % 4] for i in numbers],
            "day": [("2024-01-31", "2023-12-01")[i % 2] for i in numbers],
            "level": ["odd" if i % 50 == 0 else "low" for i in numbers],
            "time": [datetime(2024, 1, 1) + timedelta(minutes=i * 7919 % ROWS) for i in numbers],
            "y": [("yes", "no")[i * 13 % 29 % 2] for i in numbers],
        }
    )


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "map_unordered", map)


def dataset_of(file: Path, folder: Path, options: ProcessOptions) -> Dataset:
    return manifest.load(processing.stage(str(file), "y", options, storage_uri=str(folder)).run())


def batches(file: Path, enums: bool) -> list[pl.DataFrame]:
    (chunk,) = reading.chunks(reading.source_files(str(file)))
    return [batch.rows for batch in reading.batches(chunk, enums=enums)]


def stored(dataset: Dataset) -> list[pl.DataFrame]:
    folders = [*(split.uri for split in dataset.splits), *([dataset.rejected_uri] if dataset.rows_rejected else [])]
    return [pl.read_parquet(f"{folder}/*.parquet") for folder in folders]


def write(file: Path) -> None:
    if file.suffix == ".parquet":
        pq.write_table(table().to_arrow(), file, row_group_size=GROUP, use_dictionary=file.stem == "dictionaries")
    else:
        table().write_csv(file)


@pytest.mark.parametrize("name", ["dictionaries.parquet", "plain.parquet", "text.csv"])
@pytest.mark.parametrize(
    "options",
    [
        ProcessOptions(),
        ProcessOptions(
            feature_function=FUNCTION,
            split=SplitOptions(column="word"),
            columns={
                "untidy": ColumnDeclaration(required=True),
                "digits": ColumnDeclaration(kind="numeric"),
                "level": ColumnDeclaration(allowed=("low", "high")),
                "day": ColumnDeclaration(kind="timestamp"),
            },
        ),
    ],
    ids=["inferred", "declared"],
)
def test_the_dataset_is_that_of_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ProcessOptions, name: str
):
    write(tmp_path / name)
    for enums in (True, False):
        types = {type(dtype) for rows in batches(tmp_path / name, enums) for dtype in rows.dtypes}
        assert (pl.Enum in types) == enums
    found = dataset_of(tmp_path / name, tmp_path / "enumerations", options)
    read = reading.batches
    monkeypatch.setattr(reading, "batches", lambda *of, enums=False, **options: read(*of, **options))
    expected = dataset_of(tmp_path / name, tmp_path / "plain", options)
    assert bool(expected.reasons) == bool(options.columns)
    for fact in ("rows_rejected", "reasons", "feature_set", "class_counts", "target", "split_by", "warnings"):
        assert getattr(found, fact) == getattr(expected, fact)
    for rows_found, rows_expected in zip(stored(found), stored(expected), strict=True):
        assert rows_found.equals(rows_expected)
    for split in SPLITS:
        for column, plain in zip(found.split(split).statistics, expected.split(split).statistics, strict=True):
            assert (column.mean, column.deviation) == pytest.approx((plain.mean, plain.deviation))
            assert column.model_copy(update={"mean": plain.mean, "deviation": plain.deviation}) == plain


def test_blocks_of_time_have_the_counts_of_their_rows(tmp_path: Path):
    rows = table()
    rows.write_parquet(tmp_path / "a.parquet", row_group_size=GROUP)
    dataset = dataset_of(tmp_path / "a.parquet", tmp_path, ProcessOptions(split=SplitOptions(column="time")))
    blocks = manifest.load_blocks(dataset)
    assert blocks is not None
    train = stored(dataset)[0].sort("time")
    starts = [train["time"].min(), *blocks.starts[1:], train["time"].max() + timedelta(minutes=1)]
    assert len(blocks.starts) > 10
    for of_block, (first, last) in zip(blocks.blocks, pairwise(starts), strict=True):
        part = train.filter((pl.col("time") >= first) & (pl.col("time") < last))
        for column in of_block:
            values = part[column.name]
            assert (column.rows, column.missing) == (len(part), values.null_count())
            if column.values:
                expected = dict(values.drop_nulls().value_counts().iter_rows())
                assert column.counts == tuple(expected.get(value, 0) for value in column.values)
            elif values.dtype == pl.Float64:
                assert column.mean == pytest.approx(values.mean())
                assert sum(column.counts) == len(values) - values.null_count()


def test_a_reader_of_the_dataset_finds_text(tmp_path: Path):
    table().write_parquet(tmp_path / "a.parquet", row_group_size=GROUP)
    dataset = dataset_of(tmp_path / "a.parquet", tmp_path, ProcessOptions())
    (file,) = Path(dataset.split("train").uri).iterdir()
    assert pq.read_schema(file).field("word").type == pa.string()
    assert {type(value) for value in pq.read_table(file).to_pandas()["word"]} == {str}


@pytest.mark.parametrize(
    ("distinct", "dtype"), [(["a", "a", "b"], pl.String), (["a", "c", "b"], pl.Enum), ([*"abcdef"], pl.String)]
)
def test_few_values_of_a_dictionary_are_an_enumeration_if_each_is_there_once(distinct: list[str], dtype: type):
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None] * 2), pa.array(distinct))
    read = parquet_files._enum(pa.chunked_array([coded]))
    assert isinstance(read.dtype, dtype)
    assert read.to_list() == [*distinct[:3], None] * 2


@pytest.mark.parametrize(("rows_in_group", "enums"), [(1000, True), (GROUP, False)])
def test_small_row_groups_and_plain_text_are_read_in_large_batches(tmp_path: Path, rows_in_group: int, enums: bool):
    table().write_parquet(tmp_path / "a.parquet", row_group_size=rows_in_group)
    assert [len(rows) for rows in batches(tmp_path / "a.parquet", enums)] == [100_000, 20_000]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_column_without_values_has_the_type_that_is_declared(tmp_path: Path, suffix: str):
    rows = table().select("x", "y").head(3000).with_columns(empty=pl.lit(None, pl.Categorical))
    file = tmp_path / f"a{suffix}"
    rows.to_pandas().to_parquet(file) if suffix == ".parquet" else rows.write_ndjson(file)
    options = ProcessOptions(columns={"empty": ColumnDeclaration(kind="numeric")})
    assert stored(dataset_of(file, tmp_path, options))[0].schema["empty"] == pl.Float64
