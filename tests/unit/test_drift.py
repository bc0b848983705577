"""How far new rows are from the training rows, and when that is drift. No Ray."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rayworks.data import manifest, planning, processing, reading, splitting
from rayworks.data.statistics import Statistics, edges_of
from rayworks.monitoring import drift
from rayworks.monitoring.drift_report import DriftReport, ErrorChange
from rayworks.params import ProcessOptions
from rayworks.records import Column, ColumnStatistics, Feature, FeatureSet, Metrics, TimeBlocks
from rayworks.reporting import drift_page

KINDS = {"number": "numeric", "word": "categorical"}


def made_up(
    rows: int, seed: int, *, mean: float = 0.0, missing: float = 0.0, words: str = "aaaabbbccd"
) -> pl.DataFrame:
    chance = np.random.default_rng(seed)
    numbers = pl.Series("number", chance.normal(mean, 1, rows)).set(pl.Series(chance.random(rows) < missing), None)
    return pl.DataFrame([numbers, pl.Series("word", chance.choice(list(words), rows))])


def counted(
    rows: pl.DataFrame, like: list[ColumnStatistics] | None = None, sample: pl.DataFrame | None = None
) -> list[ColumnStatistics]:
    statistics = Statistics(edges_of(made_up(10_000, 0) if sample is None else sample))
    statistics.add(rows)
    values = {column.name: column.values for column in like or ()}
    return [statistics.of_column(name, kind, values.get(name)) for name, kind in KINDS.items()]


def drifted(before: pl.DataFrame, now: pl.DataFrame, blocks: TimeBlocks | None = None) -> set[str]:
    reference = counted(before)
    result = drift.compare(reference, counted(now, reference), drift.thresholds(reference, blocks))
    return {column.before.name for column in result if column.drifted}


@pytest.mark.parametrize("rows", [500, 20_000])
def test_rows_of_the_same_distribution_do_not_drift(rows: int):
    before = made_up(100_000, 1)
    assert [drifted(before, made_up(rows, seed)) for seed in range(2, 32)] == [set()] * 30


def test_the_distance_is_zero_on_average_for_rows_of_one_distribution_however_few_they_are():
    reference = counted(made_up(100_000, 1))
    for rows in (100, 2_000):
        found = [drift.difference(reference[0], counted(made_up(rows, seed))[0]) for seed in range(2, 102)]
        assert np.mean([each.distance == 0 for each in found]) > 0.4
        assert 0.3 < np.mean([each.distance_chance for each in found]) < 0.7


@pytest.mark.parametrize(
    ("shifted", "column"),
    [
        ({"mean": 0.5}, "number"),
        ({"missing": 0.1}, "number"),
        ({"words": "aaaabbbcce"}, "word"),
        ({"words": "aabbbbcccc"}, "word"),
    ],
)
def test_a_shift_of_the_mean_missing_values_and_another_mix_of_values_are_found(shifted: dict, column: str):
    assert drifted(made_up(100_000, 1), made_up(1_000, 2, **shifted)) == {column}


def test_a_new_value_counts_as_one_of_the_others_also_where_none_was_seen_before():
    reference = counted(made_up(100_000, 1, words="ab"))
    now = counted(made_up(1_000, 2, words="abccc"), reference)
    assert sum(now[1].counts) < now[1].rows
    assert drift.difference(reference[1], now[1]).distance > 0.5


def test_values_beyond_the_edges_show_by_their_mean_and_a_single_one_does_not():
    before, now = made_up(100_000, 1), made_up(1_000, 2)
    number = pl.int_range(pl.len())
    outliers = now.with_columns(pl.when(number % 50 == 0).then(100.0).otherwise("number").alias("number"))
    single = now.with_columns(pl.when(number == 7).then(1e6).otherwise("number").alias("number"))
    assert drifted(before, outliers) == {"number"}
    assert drifted(before, single) == set()


def by_block(*rows: pl.DataFrame) -> tuple[list[ColumnStatistics], TimeBlocks]:
    sample = pl.concat(rows)
    reference = counted(sample, sample=sample)
    starts = tuple(datetime(2020, 1, 1 + number) for number in range(len(rows)))
    return reference, TimeBlocks(starts=starts, blocks=tuple(tuple(counted(part, reference, sample)) for part in rows))


def test_what_differs_between_the_blocks_of_the_training_rows_may_differ_again():
    means = [0.0, 1.0, -1.0, 0.5, -0.5, 0.8, -0.8, 0.2]
    parts = [made_up(2_000, number, mean=mean) for number, mean in enumerate(means)]
    reference, blocks = by_block(*parts)
    limits = drift.thresholds(reference, blocks)
    assert limits["number"].distance > 0.3
    assert limits["word"].distance < 0.16
    assert drifted(pl.concat(parts), made_up(2_000, 9, mean=0.9), blocks) == set()
    assert drifted(pl.concat(parts), made_up(2_000, 9, mean=3.0, words="aabbbbcccc"), blocks) == {"number", "word"}


def test_a_column_that_changed_once_does_not_hide_the_others():
    parts = [made_up(2_000, number, mean=0.0 if number < 7 else 9.0) for number in range(8)]
    reference, blocks = by_block(*parts)
    assert drift.thresholds(reference, blocks)["word"].distance == drift.FLOOR


def test_few_blocks_give_thresholds_of_twice_what_they_differ_by_at_most():
    reference, blocks = by_block(*(made_up(2_000, seed, mean=mean) for seed, mean in enumerate([0.0, 0.2, 1.0])))
    largest = max(each.distance for each in drift.between_blocks(reference, blocks)[0])
    assert drift.thresholds(reference, blocks)["number"].distance == pytest.approx(2 * largest)


def test_times_their_parts_and_columns_that_tell_the_time_are_left_out():
    parts = [made_up(2_000, number, mean=10.0 * number) for number in range(8)]
    reference, blocks = by_block(*parts)
    reference = [*reference, ColumnStatistics(name="day", kind="timestamp", rows=1, missing=0)]
    feature_set = FeatureSet(
        columns=(Column(name="day", kind="timestamp", dtype="timestamp"),),
        features=(
            Feature(name="word", kind="categorical", source="word"),
            Feature(name="day_month", kind="numeric", source="day", part="month"),
        ),
    )
    out = drift.left_out(feature_set, reference[:2], blocks)
    assert out["day_month"] == "a part of the time day"
    assert "tells the time" in out["number"]
    assert "word" not in out
    assert drift.left_out(feature_set, reference, None) == {"day": "a time", "day_month": "a part of the time day"}


def test_the_blocks_of_time_add_up_to_the_training_rows(tmp_path: Path):
    rows = pl.DataFrame(
        {
            "day": pl.datetime_range(datetime(2020, 1, 1), datetime(2021, 12, 31, 23), "1h", eager=True),
            "word": [("often", "rare", None)[number % 5 % 3] for number in range(731 * 24)],
        }
    ).with_columns(pl.col("day").dt.ordinal_day().sin().alias("x"), pl.col("day").dt.hour().cast(pl.Float64).alias("y"))
    rows = rows.sample(fraction=1, shuffle=True, seed=0)
    rows.write_parquet(tmp_path / "a.parquet", row_group_size=5_000)
    chunks = reading.chunks(reading.source_files(str(tmp_path / "a.parquet")))
    plan = planning.make_plan(chunks, "y", ProcessOptions(), str(tmp_path / "dataset"))
    plan = plan.with_times([planning.count_times(chunk, plan.columns[0]) for chunk in chunks])
    counts = manifest.RowCounts()
    for chunk in chunks:
        counts.merge(processing.process_chunk(chunk, plan))
    dataset = manifest.assemble(plan, counts, ProcessOptions(), [], "a")
    train, blocks = dataset.split("train"), manifest.time_blocks(plan, counts, dataset)
    assert blocks is not None
    assert len(blocks.starts) == len(blocks.blocks) == splitting.BLOCKS
    for column, *parts in zip(train.statistics, *blocks.blocks, strict=True):
        assert {part.name for part in parts} == {column.name}
        assert sum(part.rows for part in parts) == column.rows
        assert sum(part.missing for part in parts) == column.missing
        assert [sum(cells) for cells in zip(*(part.counts for part in parts), strict=True)] == list(column.counts)
    sizes = [columns[0].rows for columns in blocks.blocks]
    assert max(sizes) < 1.1 * min(sizes)
    times = next(number for number, column in enumerate(train.statistics) if column.name == "day")
    assert [columns[times].minimum for columns in blocks.blocks][1:] == [
        (start - datetime(1970, 1, 1)).total_seconds() for start in blocks.starts[1:]
    ]


def test_too_few_rows_have_no_blocks():
    counts = pl.DataFrame({"time": [datetime(2020, 1, day) for day in range(1, 11)], "rows": [99] * 10})
    assert splitting.block_starts(counts, datetime(2020, 1, 11)) == ()


def test_an_error_whose_change_may_be_chance_for_all_that_is_known_is_told_so():
    now = Metrics(rows=500, values={"rmse": 2.0})
    error = ErrorChange(metric="rmse", before=now, now=now, interval=None, worse=False)
    told = "Too few rows, times or keys tell whether the change of RMSE is chance."
    assert drift_page.interval(DriftReport.model_construct(error=error)) == told
