"""Validation, features and splitting: pure, no Ray."""

from dataclasses import replace
from datetime import datetime, time, timedelta

import polars as pl
import pytest

from rayworks.data import features, processing, splitting, validation
from rayworks.errors import ParameterError
from rayworks.params import SplitOptions
from rayworks.records import SPLITS, Column, Feature, FeatureSet, Target

# --- validation


def test_columns_may_have_any_name():
    names = ["row", "_row", "_reason", "a.b", "[x]", "tar get", "größe", 'quo"te', "", " "]
    raw = pl.DataFrame({name: ["1", "bad"] for name in names}).with_row_index(validation.ROW)
    good, bad = validation.validate(raw, [column(name) for name in names], "a.b")
    assert (len(good), len(bad)) == (1, 1)
    assert set(good.columns) == {*names, validation.ROW}


def column(name: str, kind: str = "numeric", dtype: str = "float", **rules) -> Column:
    return Column(name=name, kind=kind, dtype=dtype, **rules)


def test_every_rejected_row_has_the_first_reason_and_no_row_is_lost():
    raw = pl.DataFrame(
        {
            "age": ["1", "abc", "200", None, "5"],
            "color": ["red", "red", "red", "red", "pink"],
            "y": ["1", "2", "3", "4", ""],
        }
    )
    columns = [
        column("age", maximum=120, required=True),
        column("color", "categorical", "string", allowed=("red",)),
        column("y"),
    ]
    good, bad = validation.validate(raw, columns, "y")
    assert len(good) + len(bad) == len(raw)
    assert good["age"].to_list() == [1.0]
    assert bad[validation.REASON].to_list() == [
        "column age: 'abc' is not a number",
        "column age: more than 120",
        "column age: a value is required",
        "column color: not one of the allowed values",
    ]


def test_a_column_that_a_file_lacks_is_null_in_its_rows():
    good, bad = validation.validate(pl.DataFrame({"y": [1.0]}), [column("x"), column("y")], "y")
    assert good["x"].to_list() == [None]
    assert bad.is_empty()


def test_times_with_and_without_a_zone_are_parsed():
    texts = [
        "2024-01-02",
        "2024-01-02 03:04",
        "2024-01-02T03:04:05Z",
        "2024-01-02T03:04:05+02:00",
        "02.01.2024",
        "nonsense",
    ]
    raw = pl.DataFrame({"t": texts})
    read_times = raw.select(validation.typed("t", pl.String(), "timestamp"))["t"].to_list()
    assert [None if t is None else t.strftime("%d %H:%M") for t in read_times] == [
        "02 00:00",
        "02 03:04",
        "02 03:04",
        "02 01:04",
        "02 00:00",
        None,
    ]


def times_of(texts: list[str]) -> list[datetime | None]:
    return pl.DataFrame({"t": texts}).select(validation.typed("t", pl.String(), "timestamp"))["t"].to_list()


def test_times_of_all_documented_formats_are_parsed():
    dates = ["2024-01-02", "2024/01/02", "02.01.2024", "01/02/2024", "2024-1-2", "2.1.2024", "1/2/2024"]
    assert times_of(dates) == [datetime(2024, 1, 2)] * len(dates)
    assert times_of([f"{date} 03:04:05" for date in dates]) == [datetime(2024, 1, 2, 3, 4, 5)] * len(dates)
    assert (
        times_of(["2024-01-02T03:04:05.5Z", "2024-01-02 05:04:05.5+02:00"])
        == [datetime(2024, 1, 2, 3, 4, 5, 500_000)] * 2
    )


def test_versions_scores_and_years_of_two_digits_are_no_times():
    texts = ["31.01.24", "01/31/24", "24-01-31", "1.2.3", "4-4-2", "3/4/5", "-5-01-01", "+2024-01-01", "1.2.3 04:05:06"]
    assert times_of(texts) == [None] * len(texts)


def test_reasons_are_counted_without_their_values():
    assert validation.reason_class("column age: 'a: 'b' is c' is not a number") == "column age: not a number"


def test_a_number_that_is_infinite_for_a_model_is_rejected_with_its_reason():
    raw = pl.DataFrame({"x": ["1.797e308", "-1e39", "inf", "3e38"], "y": ["1"] * 4})
    good, bad = validation.validate(raw, [column("x"), column("y")], "y")
    assert good["x"].to_list() == [3e38]
    assert [validation.reason_class(reason) for reason in bad[validation.REASON]] == [
        "column x: too large for a model",
        "column x: too large for a model",
        "column x: not a number",
    ]


def test_whole_numbers_are_the_same_text_whether_stored_as_integers_or_floats():
    texts = [pl.DataFrame({"k": v}).select(validation.typed("k", v.dtype, "string"))["k"].to_list() for v in NUMBERS]
    assert texts == [["1", "2", None], ["1", "2", None], ["1", "2.5", None]]


NUMBERS = [pl.Series([1, 2, None]), pl.Series([1.0, 2.0, float("nan")]), pl.Series([1.0, 2.5, None])]


def test_a_fraction_in_a_column_of_whole_numbers_is_rejected():
    good, bad = validation.validate(pl.DataFrame({"k": [1.0, 1.5]}), [column("k", dtype="integer")], "")
    assert good["k"].to_list() == [1]
    assert bad[validation.REASON].to_list() == ["column k: '1.5' is not a whole number"]


DAY = datetime(2024, 1, 31)


@pytest.mark.parametrize(
    ("values", "dtype", "kept", "reasons"),
    [
        (pl.Series([1700000000, 20240131]), "timestamp", [], ["not a date or time"] * 2),
        (pl.Series([True]), "timestamp", [], ["not a date or time"]),
        (pl.Series([0.0, 1.0, 2.0, float("nan"), -0.5]), "boolean", [False, True, None], ["not true or false"] * 2),
        (pl.Series([0, 1, -1]), "boolean", [False, True], ["not true or false"]),
        (pl.Series([DAY]), "boolean", [], ["not true or false"]),
        (pl.Series([DAY], dtype=pl.Datetime("ms")), "float", [], ["not a number"]),
        (pl.Series([DAY.date()]), "float", [], ["not a number"]),
        (pl.Series([DAY]), "integer", [], ["not a whole number"]),
    ],
)
def test_a_typed_value_that_means_something_else_is_rejected_as_its_text_would_be(
    values: pl.Series, dtype: str, kept: list, reasons: list[str]
):
    good, bad = validation.validate(pl.DataFrame({"x": values}), [column("x", dtype=dtype)], "")
    assert good["x"].to_list() == kept
    assert [validation.reason_class(reason) for reason in bad[validation.REASON]] == [f"column x: {r}" for r in reasons]


@pytest.mark.parametrize("dtype", ["string", "float", "integer", "boolean", "timestamp"])
@pytest.mark.parametrize("value", [b"x", [1], {"a": 1}, time(8), timedelta(1)], ids=lambda value: type(value).__name__)
def test_a_value_that_is_not_plain_is_rejected_in_a_column_of_plain_values(value: object, dtype: str):
    raw = pl.DataFrame({"x": [value, None]})
    good, bad = validation.validate(raw, [column("x", dtype=dtype)], "")
    assert good["x"].to_list() == [None]
    assert good["x"].dtype == validation.POLARS_TYPES[dtype]
    [reason] = bad[validation.REASON]
    assert reason == f"column x: 'a value of type {raw.schema['x']}' is not {validation.WORDS[dtype]}"
    assert validation.reason_class(reason) == f"column x: not {validation.WORDS[dtype]}"


@pytest.mark.parametrize(
    ("values", "dtype", "converted"),
    [
        (pl.Series([True, False]), "integer", [1, 0]),
        (pl.Series([True, False]), "float", [1.0, 0.0]),
        (pl.Series([DAY.date()]), "timestamp", [DAY]),
        (pl.Series([DAY]).dt.replace_time_zone("Europe/Berlin"), "timestamp", [datetime(2024, 1, 30, 23)]),
    ],
)
def test_a_typed_value_of_the_same_meaning_is_converted(values: pl.Series, dtype: str, converted: list):
    good, _ = validation.validate(pl.DataFrame({"x": values}), [column("x", dtype=dtype)], "")
    assert good["x"].to_list() == converted


# --- features


def test_timestamps_become_the_parts_that_vary():
    sample = pl.DataFrame({"t": pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 20), "1d", eager=True)})
    feature_set = features.plan(sample, [column("t", "timestamp", "timestamp")], None, "y")
    assert {f.part for f in feature_set.features} == {"day_of_year", "day_of_week"}
    assert features.transform(sample, feature_set)["t_day_of_year"].to_list()[:2] == [1.0, 2.0]


def test_no_feature_takes_the_name_of_the_target_or_of_another_column():
    times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 20), "1d", eager=True)
    columns = [column("t", "timestamp", "timestamp"), column("t_day_of_week")]
    feature_set = features.plan(pl.DataFrame({"t": times, "t_day_of_week": range(20)}), columns, None, "t_day_of_year")
    assert [(f.name, f.part) for f in feature_set.features] == [
        ("t_day_of_year_", "day_of_year"),
        ("t_day_of_week_", "day_of_week"),
        ("t_day_of_week", None),
    ]


def test_a_category_unseen_in_training_is_missing():
    feature = Feature(name="c", kind="categorical", source="c", categories=("b", "a"))
    encoded = features.encode(pl.DataFrame({"c": ["a", "b", "z", None]}), [feature])
    assert list(encoded["c"].cat.categories) == ["b", "a"]
    assert encoded["c"].cat.codes.tolist() == [1, 0, -1, -1]


def test_labels_become_class_numbers_in_the_order_of_the_classes():
    target = Target(name="y", problem="multiclass", classes=("a", "b", "c"))
    assert features.encode_target(pl.Series(["c", "a"]), target).tolist() == [2, 0]


def with_function(name: str, target: str = "y") -> FeatureSet:
    sample = pl.DataFrame({"x": [1.0, 2.0]})
    return features.plan(sample, [column("x")], f"tests.unit.feature_functions:{name}", target)


def test_a_feature_function_adds_columns():
    feature_set = with_function("doubled")
    assert features.transform(pl.DataFrame({"x": [3.0]}), feature_set)["x_doubled"].to_list() == [6.0]


def test_a_date_that_a_feature_function_adds_has_the_parts_of_a_time():
    assert features.transform(pl.DataFrame({"x": [3.0]}), with_function("of_dates")).to_dicts() == [
        {"x": 3.0, "date_day_of_year": 34.0, "date_day_of_week": 6.0}
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("of_durations", r"not numbers, text or timestamps: .*\(gap is Duration.*total_seconds"),
        ("of_times_of_day", r"not numbers, text or timestamps: .*\(at is Time\)"),
        ("of_periods", r"not numbers, text or timestamps: .*\(period is "),
        ("of_mixed_values", "not numbers, text or timestamps"),
        ("that_drops_rows", "same rows"),
        ("that_changes_x", "changed or dropped columns.*x"),
        (
            "that_makes_dummies",
            r"other columns to some rows than to others: .*\(missing: c_2.0\).*Add the same",
        ),
        ("that_fails", r"ZeroDivisionError.*feature_functions.py:\d+"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_feature_function_that_does_more_than_add_columns_is_refused(name: str, words: str):
    with pytest.raises(ParameterError, match=words):
        with_function(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("that_divides_by_zero", r"infinite or too large numbers: .*\(ratio in 1 of 2 rows\).*NaN"),
        ("of_the_largest", r"other columns to some rows.*\(missing: x_small; extra: big\)"),
        ("of_two_types", "a column of another type than for the sample"),
    ],
)
def test_a_feature_function_whose_columns_depend_on_the_rows_is_refused(name: str, words: str):
    feature_set = with_function(name)
    with pytest.raises(ParameterError, match=words):
        features.transform(pl.DataFrame({"x": [2.0, 11.0]}), feature_set)


def test_a_feature_function_that_adds_the_target_is_refused():
    with pytest.raises(ParameterError, match=r"name already exists: .*doubled \(x_doubled\)"):
        with_function("doubled", target="x_doubled")


# --- splitting


def test_rows_get_the_same_split_however_they_are_batched():
    splitter = splitting.choose(SplitOptions(by="random", seed=7), ())
    rows, numbers = pl.DataFrame({"x": range(1000)}), pl.Series(range(1, 1001))
    whole = splitter.assign(rows, "a.csv", numbers)
    halves = pl.concat(
        [splitter.assign(rows[:400], "a.csv", numbers[:400]), splitter.assign(rows[400:], "a.csv", numbers[400:])]
    )
    assert whole.equals(halves)
    shares = whole.value_counts(normalize=True)
    assert dict(shares.iter_rows())["train"] == pytest.approx(0.7, abs=0.05)


def test_the_split_is_the_same_on_every_machine_and_version():
    splitter = splitting.choose(SplitOptions(by="random"), ())
    parts = splitter.assign(pl.DataFrame({"x": range(12)}), "a.csv", pl.Series(range(12)))
    assert "".join(part[0] for part in parts) == RECORDED_SPLIT


RECORDED_SPLIT = "vttttttttttt"


def test_rows_that_share_a_key_stay_together():
    splitter = splitting.choose(SplitOptions(by="hash", column="k"), [column("k", "categorical", "string")])
    keys = [f"key {i % 50}" for i in range(1000)]
    parts = pl.DataFrame({"k": keys}).with_columns(
        part=splitter.assign(pl.DataFrame({"k": keys}), "a", pl.Series(range(1000)))
    )
    assert parts.group_by("k").agg(pl.col("part").n_unique())["part"].max() == 1
    assert parts["part"].n_unique() == 3


def test_the_newest_rows_are_the_test_split_and_rows_of_one_time_stay_together():
    times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 4, 9), "1d", eager=True)
    splitter = splitting.choose(SplitOptions(), [column("t", "timestamp", "timestamp")])
    splitter = splitting.with_thresholds(splitter, pl.DataFrame({"time": times, "rows": [10] * 100}))
    parts = splitter.assign(pl.DataFrame({"t": times}), "a", pl.Series(range(100)))
    assert parts.to_list() == ["train"] * 70 + ["validation"] * 15 + ["test"] * 15


DAYS = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 4, 9), "1d", eager=True)


def split_by_day(options: SplitOptions, champion: splitting.Learned | None = None) -> tuple[list[int], str]:
    """Split a hundred days of ten rows: the days in each split, and what is said about the champion."""
    splitter = splitting.choose(options, [column("t", "timestamp", "timestamp")])
    splitter = splitting.with_thresholds(splitter, pl.DataFrame({"time": DAYS, "rows": [10] * 100}), champion)
    parts = splitter.assign(pl.DataFrame({"t": DAYS}), "a", pl.Series(range(100))).to_list()
    return [parts.count(name) for name in SPLITS], splitting.hold_out(splitter, champion)


def learned_until(time: datetime, minimum_rows: int = 30) -> splitting.Learned:
    return splitting.Learned("by time", "t", time, minimum_rows)


def test_rows_from_a_given_time_are_the_test_split_and_those_before_keep_the_ratio_of_the_shares():
    days, said = split_by_day(SplitOptions(test_from=datetime(2024, 2, 10), validation=0.2, test=0.2))  # day 40
    assert (days, said) == ([30, 10, 60], "")
    in_another_zone = datetime.fromisoformat("2024-02-10T01:00:00+01:00")
    assert split_by_day(SplitOptions(test_from=in_another_zone, validation=0.2, test=0.2))[0] == days
    with pytest.raises(ParameterError, match=r"No row would be left .* 2024-01-01 .* to 2024-04-09"):
        split_by_day(SplitOptions(test_from=datetime(2024, 5, 1)))
    with pytest.raises(ValueError, match="test_from needs a split by time"):
        SplitOptions(test_from=datetime(2024, 5, 1), by="random")
    with pytest.raises(ParameterError, match="Rows are not split by time"):
        splitting.choose(SplitOptions(test_from=datetime(2024, 5, 1)), [column("x")])


@pytest.mark.parametrize(
    ("until", "days", "said"),
    [
        (datetime(2024, 3, 1), [70, 15, 15], "Neither the candidate nor the champion has learned from the test rows"),
        (datetime(2024, 4, 5), [79, 16, 5], "Neither the candidate nor the champion has learned from the test rows"),
        (datetime(2024, 4, 8), [70, 15, 15], "The champion has learned from the test rows before 2024-04-08"),
    ],
)
def test_the_test_rows_are_newer_than_what_the_champion_learned_from_where_there_are_enough(
    until: datetime, days: list[int], said: str
):
    found, sentence = split_by_day(SplitOptions(), learned_until(until))
    assert found == days
    assert sentence.startswith(said)


def test_a_split_by_another_column_or_without_time_says_what_the_champion_may_have_learned_from():
    at_random = splitting.choose(SplitOptions(by="random"), ())
    same = splitting.Learned(at_random.describe(), None, None, 30)
    assert "data that are added move no row" in splitting.hold_out(at_random, same)
    seeded = splitting.choose(SplitOptions(by="random", seed=1), ())
    assert "may have learned from some of the test rows: its rows were split at random (seed 0)" in splitting.hold_out(
        seeded, same
    )
    assert "its dataset is no longer stored" in splitting.hold_out(seeded, splitting.learned(None, 30))
    assert split_by_day(SplitOptions(), replace(learned_until(datetime(2024, 4, 5)), column="u"))[0] == [70, 15, 15]


def test_a_split_far_from_its_shares_has_a_warning():
    splitter = splitting.choose(SplitOptions(), [column("t", "timestamp", "timestamp")])
    [warning] = splitting.warnings(splitter, {"train": 95, "validation": 5, "test": 900})
    assert "0% validation instead of 15%, 90% test instead of 15%" in warning
    assert splitting.warnings(splitter, {"train": 650, "validation": 150, "test": 200}) == ()
    at_random = splitting.choose(SplitOptions(by="random"), ())
    assert splitting.warnings(at_random, {"train": 2, "validation": 1, "test": 7}) == ()


def test_a_split_by_time_needs_a_timestamp_column():
    with pytest.raises(ParameterError, match="needs a timestamp column"):
        splitting.choose(SplitOptions(by="time", column="x"), [column("x")])


# --- names


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://lake/Titanic Passengers.csv.gz", "titanic-passengers"),
        ("/data/2024/*.parquet", "2024"),
        ("example://flights", "flights"),
    ],
)
def test_data_is_named_after_its_file_or_folder(uri: str, name: str):
    assert processing.name_of(uri) == name
