"""Reading, inference, validation, features and splitting: pure, no Ray."""

import gzip
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayworks.data import column_kinds, features, processing, reading, splitting, validation
from rayworks.errors import DataError, ParameterError, StorageError
from rayworks.params import ColumnDeclaration, ProcessOptions, SplitOptions
from rayworks.records import Column, Feature, FeatureSet, Target


def read(uri: Path | str) -> tuple[pl.DataFrame, list[tuple[int, str, str]]]:
    parts = [batch for chunk in reading.chunks(reading.source_files(str(uri))) for batch in reading.batches(chunk)]
    return pl.concat([part.rows for part in parts], how="diagonal_relaxed"), [
        bad for part in parts for bad in part.malformed
    ]


# --- reading


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
def test_csv_is_read_as_text_with_any_delimiter_and_compression(tmp_path: Path, name: str):
    delimiter = "\t" if "tsv" in name else ";"
    content = f"a{delimiter}b c\n1{delimiter}x\n2{delimiter}y\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, _ = read(tmp_path / name)
    assert rows.to_dict(as_series=False) == {"a": ["1", "2"], "b c": ["x", "y"]}


def test_a_line_with_too_few_values_is_rejected_and_the_others_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text('a,b\n1,x\n2\n3,"two\nlines"\n')
    rows, malformed = read(tmp_path / "a.csv")
    assert rows["b"].to_list() == ["x", "two\nlines"]
    assert [reason for _, _, reason in malformed] == ["the line has 1 values instead of 2"]


def test_json_lines_that_are_not_objects_are_rejected_with_the_reason(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": "x"}\n{"a": true}\nnonsense\n[1]\n\n')
    rows, malformed = read(tmp_path / "a.jsonl")
    assert rows.to_dict(as_series=False) == {"a": ["1", "true"], "b": ["x", None]}
    assert [row for row, _, _ in malformed] == [3, 4]


def test_other_files_in_a_folder_are_ignored(tmp_path: Path):
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert [file.uri.rpartition("/")[2] for file, _ in reading.source_files(str(tmp_path))] == ["a.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("\n1,2\n", "names no column|empty"),
        (",\n1,2\n", "names no column"),
        ("a,b,a\n1,2,3\n", r"two columns have the same name: .*\(a\)"),
    ],
    ids=["empty file", "blank line", "no names", "repeated column"],
)
def test_a_csv_file_without_a_usable_header_is_refused_in_a_sentence(tmp_path: Path, content: str, words: str):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=f"(?i){words}"):
        read(tmp_path / "a.csv")


def test_csv_columns_without_a_name_and_names_with_a_line_break_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text(',"b\nc",x,\n0,1,2,\n')
    rows, _ = read(tmp_path / "a.csv")
    assert rows.to_dict(as_series=False) == {"unnamed_1": ["0"], "b\nc": ["1"], "x": ["2"], "unnamed_4": [""]}


def test_decimal_commas_are_read_in_files_separated_by_semicolons(tmp_path: Path):
    numbers = ["1,5", "-1.234,56", "1.5", "7", "1,2,3", "a,5", ""]
    (tmp_path / "a.csv").write_text("x;y\n" + "".join(f"{number};0\n" for number in numbers))
    rows, _ = read(tmp_path / "a.csv")
    assert rows["x"].to_list() == ["1.5", "-1234.56", "1.5", "7", "1,2,3", "a,5", ""]
    (tmp_path / "a.csv").write_text('x,y\n"1,5",0\n')  # here it might as well separate thousands
    assert read(tmp_path / "a.csv")[0]["x"].to_list() == ["1,5"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"no parquet", "not readable as Parquet"),
        ("a.csv", "a,b\nä,1\n".encode("latin-1"), "Save it as UTF-8"),
        ("a.csv", b"a\n" + b"x\n" * 9000 + b"\xe4\n", "Save it as UTF-8"),
        ("a.csv.gz", b"a,b\n1,2\n", r"cannot read: .*a.csv.gz.*that the file is complete"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 999)[:-20], "that the file is complete"),
    ],
    ids=["no Parquet", "Latin-1", "Latin-1 further down", "not compressed", "cut off"],
)
def test_a_file_that_does_not_have_the_format_of_its_name_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, words: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, StorageError), match=f"(?i){words}"):
        read(tmp_path / name)


def test_a_parquet_file_with_two_columns_of_the_same_name_is_refused(tmp_path: Path):
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"(?i)two columns have the same name: .*\(x\)"):
        read(tmp_path / "a.parquet")


def test_missing_data_is_refused_with_its_uri(tmp_path: Path):
    with pytest.raises(StorageError, match=r"does not exist.*missing"):
        reading.source_files(str(tmp_path / "missing.csv"))


# --- inference


def columns_of(data: dict, target: str = "y", **options) -> dict[str, Column]:
    sample = pl.DataFrame(data)
    return {c.name: c for c in column_kinds.infer_columns(sample, target, ProcessOptions(**options))}


def test_the_kinds_of_text_columns_are_inferred_from_their_values():
    rows = 100
    columns = columns_of(
        {
            "number": [str(i / 2) if i % 10 else "NA" for i in range(rows)],
            "color": [("red", "green", "blue")[i % 3] for i in range(rows)],
            "when": [f"2024-01-{i % 28 + 1:02}T08:00:00Z" for i in range(rows)],
            "flag": [("yes", "no")[i % 2] for i in range(rows)],
            "name": [f"person {i}" for i in range(rows)],
            "id": [str(i) for i in range(rows)],
            "same": ["x"] * rows,
            "nothing": [None] * rows,
            "y": ["1"] * rows,
        }
    )
    kinds = {name: column.kind for name, column in columns.items()}
    assert kinds["number"] == "numeric"
    assert kinds["color"] == "categorical"
    assert kinds["when"] == "timestamp"
    assert kinds["flag"] == "boolean"
    assert {name for name, kind in kinds.items() if kind == "ignored"} == {"name", "id", "same", "nothing"}
    assert all(columns[name].note for name in ("name", "id", "same", "nothing"))


def test_a_declared_kind_overrides_the_inferred_one():
    declared = {"zip": ColumnDeclaration(kind="categorical")}
    assert columns_of({"zip": [10115, 10117, 80331], "y": [1.5, 2.5, 3.5]}, columns=declared)["zip"].dtype == "string"


def test_an_unknown_target_is_refused_with_the_closest_name():
    with pytest.raises(DataError, match=r"Did you mean 'Price'"):
        columns_of({"Price": [1.0, 2.0]}, target="price")


def test_a_declaration_of_a_missing_column_is_refused():
    with pytest.raises(ParameterError, match=r"'ages' is not in the data.*Did you mean 'age'"):
        columns_of({"age": [1, 2], "y": [1, 2]}, columns={"ages": ColumnDeclaration(kind="numeric")})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([True, False] * 50, "classification"),
        (["a", "b", "c"] * 50, "classification"),
        ([0, 1] * 50, "classification"),
        ([0.0, 1.0] * 50, "classification"),
        ([1, 2, 3, 4, 5] * 50, "classification"),
        ([float(i) / 3 for i in range(100)], "regression"),
        (list(range(100)), "regression"),
    ],
    ids=["truth", "text", "0 and 1", "whole floats", "five numbers", "fractions", "many numbers"],
)
def test_the_problem_follows_from_the_target(values: list, problem: str):
    assert column_kinds.infer_problem(pl.Series(values), "auto") == problem


def test_a_target_of_one_class_is_refused():
    with pytest.raises(DataError, match="only one value"):
        column_kinds.problem_of_classes(["a"], "auto", "y", 100)


def test_amounts_in_an_unknown_notation_are_not_taken_for_classes():
    with pytest.raises(DataError, match=r"600 classes in 1,000 rows.*1,000\.00.*write them like 1234\.5"):
        column_kinds.problem_of_classes([f"1,{i:03}.00" for i in range(600)], "auto", "y", 1000)
    assert column_kinds.problem_of_classes(["a", "b"], "auto", "y", 3) == "binary"


@pytest.mark.parametrize(
    ("values", "words"),
    [(["2024-01-01", "2024-01-02"], "holds times"), ([[1], [2]], "List"), ([timedelta(1), timedelta(2)], "Duration")],
    ids=["times", "lists", "durations"],
)
def test_a_target_that_holds_neither_amounts_nor_classes_is_refused(values: list, words: str):
    with pytest.raises(DataError, match=words):
        columns_of({"x": [1, 2], "y": values})


def test_columns_without_plain_values_can_only_be_ignored():
    data = {"x": [[1], [2]], "y": [1, 2]}
    assert columns_of(data)["x"].note == "List(Int64) values"
    with pytest.raises(ParameterError, match=r"can only be ignored: x \(declared categorical\)"):
        columns_of(data, columns={"x": ColumnDeclaration(kind="categorical")})


def test_integers_that_do_not_fit_64_bits_become_floats():
    values = pl.Series([2**63 - 1, 2**64 - 1], dtype=pl.UInt64)
    known = columns_of({"x": values, "y": [1, 2]})["x"]
    assert (known.kind, known.dtype) == ("numeric", "float")


def test_the_index_that_pandas_saves_is_not_a_feature():
    known = columns_of(
        {"unnamed_1": [str(i) for i in range(50)], "x": [str(i) for i in range(50)], "y": ["a", "b"] * 25}
    )
    assert (known["unnamed_1"].kind, known["x"].kind) == ("ignored", "numeric")


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


def test_reasons_are_counted_without_their_values():
    assert validation.reason_class("column age: 'a: 'b' is c' is not a number") == "column age: not a number"


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("that_drops_rows", "same rows"),
        ("that_changes_x", "changed or dropped columns.*x"),
        ("that_fails", r"ZeroDivisionError.*feature_functions.py:\d+"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_feature_function_that_does_more_than_add_columns_is_refused(name: str, words: str):
    with pytest.raises(ParameterError, match=words):
        with_function(name)


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
