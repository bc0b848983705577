"""The kinds of columns and the problem are inferred from the values. Pure."""

from datetime import date, datetime, time, timedelta

import polars as pl
import pytest

from rayworks.data import column_kinds, validation
from rayworks.errors import DataError, ParameterError
from rayworks.params import ColumnDeclaration, ProcessOptions
from rayworks.records import Column


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
            "version": [f"1.{i % 4 + 1}.{i % 7}" for i in range(rows)],
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
    assert kinds["version"] == "categorical"
    assert {name for name, kind in kinds.items() if kind == "ignored"} == {"name", "id", "same", "nothing"}
    assert all(columns[name].note for name in ("name", "id", "same", "nothing"))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ([1700000000], [datetime(2024, 1, 31)], ["1700000000", "2024-01-31 00:00:00.000000"]),
        ([1.5], [date(2024, 1, 31)], ["1.5", "2024-01-31"]),
        ([True], [date(2024, 1, 31)], ["true", "2024-01-31"]),
        ([1.5], [timedelta(1)], ["1.5", None]),
        ([7], [time(8)], ["7", None]),
        ([7], [{"a": 1}], ["7", None]),
        (["x"], [b"x"], ["x", None]),
        ([date(2024, 1, 31)], [time(8)], ["2024-01-31", None]),
        ([1], [2.5], [1.0, 2.5]),
        ([True], [2], [1, 2]),
        ([None], [date(2024, 1, 31)], [None, date(2024, 1, 31)]),
    ],
)
def test_a_column_whose_types_mean_different_things_is_text(first: list, second: list, together: list):
    """Polars would take times for numbers: of different units, and counted from 1970."""
    lists = pl.DataFrame({"x": first, "lists": [[1]]})
    assert column_kinds.in_one([lists, pl.DataFrame({"x": second})]).to_dict(as_series=False) == {
        "x": together,
        "lists": [[1], None],
    }


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
    assert column_kinds.infer_problem(set(values), len(values), "auto") == problem


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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "ignored") for name in ("unnamed_1", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", "rownames")),
        *((name, "ignored") for name in ("id", "customer_id", "PassengerId", "orderID")),
        *((name, "numeric") for name in ("x", "paid", "monkey", "Unnamed river")),
    ],
)
def test_row_numbers_and_identifiers_are_not_features(name: str, kind: str):
    known = columns_of({name: [str(i) for i in range(50)], "y": ["a", "b"] * 25})
    assert known[name].kind == kind


def test_measurements_are_features_whatever_their_name():
    assert (
        columns_of({"heat_index": [i * 1.37 for i in range(50)], "y": ["a", "b"] * 25})["heat_index"].kind == "numeric"
    )


@pytest.mark.parametrize("mark", ["n/a", "#N/A", "<NA>", "NULL", "?"])
def test_the_usual_marks_of_missing_values_leave_a_column_numeric(mark: str):
    values = [mark if i % 12 == 0 else str(i * 1.37) for i in range(120)]
    assert columns_of({"x": values, "y": ["a", "b"] * 60})["x"].kind == "numeric"


def test_other_marks_of_missing_values_can_be_set():
    values = [("-" if i % 12 == 0 else str(i * 1.37)) for i in range(120)]
    data = {"x": values, "y": ["None", "b"] * 60}
    assert columns_of(data)["x"].kind == "ignored"
    known = columns_of(data, missing_values=["-"])
    assert known["x"].kind == "numeric"
    valid, rejected = validation.validate(pl.DataFrame(data), list(known.values()), "y")
    assert (valid["x"].null_count(), valid["y"].n_unique(), len(rejected)) == (10, 2, 0)


def test_a_text_column_that_is_nearly_numeric_has_a_warning():
    values = [f"${i}" if i % 10 == 0 else str(i % 7) for i in range(100)]
    warning = columns_of({"price": values, "y": ["a", "b"] * 50})["price"].warning
    assert warning.startswith("it counts as text: 10.0% of its values are not numbers, such as '$")


def test_a_target_of_which_a_class_counts_as_missing_has_a_warning():
    known = columns_of({"x": [1, 2] * 50, "y": ["None", "Insomnia", "None", "Apnea"] * 25})["y"]
    assert known.warning.startswith("50.0% of its values in the sample are 'None', which counts as missing")
    with pytest.raises(DataError, match=r"only one value.*always 'a'; 50.0% of its values"):
        column_kinds.problem_of_classes(["a"], "auto", "y", 100, known.warning)


@pytest.mark.parametrize(
    ("words", "dtype"),
    [(("True", "FALSE", " true", "NA"), "boolean"), (("yes", "no"), "string"), (("True", "False", "yes"), "string")],
)
def test_a_target_of_the_words_true_and_false_holds_truth_values_and_other_words_are_classes(words: tuple, dtype: str):
    assert columns_of({"x": range(12), "y": words * (12 // len(words))})["y"].dtype == dtype


def test_lists_and_objects_as_json_are_ignored():
    data = {"tags": ['["a"]', '["b", "c"]'] * 50, "geo": ['{"x": 1}', '{"x": 2}'] * 50, "y": [0, 1] * 50}
    known = columns_of(data)
    assert {name: known[name].note for name in ("tags", "geo")} == dict.fromkeys(("tags", "geo"), "lists or objects")
    with pytest.raises(DataError, match="holds lists or objects"):
        columns_of(data, target="tags")
    assert columns_of({"note": ["[a]", "[b]"] * 50, "y": [0, 1] * 50})["note"].kind == "categorical"


@pytest.mark.parametrize(
    ("values", "rule", "words"),
    [
        (["$5", *"123456789"] * 5, {"minimum": 0}, r"needs a column of numbers.*10.0% of its values are not.*'\$5'"),
        (["2024-01-01", "2024-01-02"] * 9, {"minimum": 2020}, "needs a column of numbers.*dates or times"),
        (["a", "b"] * 9, {"maximum": 1}, r"A maximum needs a column of numbers: x \(it holds text\)"),
        ([[1], [2]] * 9, {"maximum": 1}, "needs a column of numbers"),
        ([1, 2] * 9, {"allowed": ["1", "two"]}, "holds whole numbers, not 'two'"),
        ([[1], [2]] * 9, {"allowed": ["1"]}, "not of the type of its column"),
    ],
    ids=["nearly numbers", "times", "text", "lists", "allowed text in numbers", "allowed lists"],
)
def test_a_rule_that_the_values_cannot_follow_is_refused(values: list, rule: dict, words: str):
    data = {"x": values, "y": list(range(len(values)))}
    with pytest.raises(ParameterError, match=words):
        columns_of(data, columns={"x": ColumnDeclaration(**rule)})


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([f"c{i}" if i % 10 else "" for i in range(50)], {"required": True}),
        ([[i] if i % 10 else None for i in range(50)], {"required": True}),
        ([5.0 if i % 10 else -1.0 for i in range(50)], {"kind": "ignored", "minimum": 0}),
        (["5"] * 45 + ["7"] * 5, {"allowed": ["5"]}),
        ([i % 2 + 1.0 if i % 10 else 9.0 for i in range(50)], {"allowed": ["1", "2"]}),
        (["yes" if i % 10 else "no" for i in range(50)], {"allowed": ["Yes"]}),
    ],
    ids=["identifiers", "lists", "declared ignored", "text numbers", "floats", "truth values"],
)
def test_a_declared_rule_holds_whatever_the_column_is_taken_for(values: list, rule: dict):
    data = {"x": values, "y": [i * 1.5 for i in range(50)]}
    known = columns_of(data, columns={"x": ColumnDeclaration(**rule)})
    valid, rejected = validation.validate(pl.DataFrame(data), list(known.values()), "y")
    assert (len(valid), len(rejected)) == (45, 5)
    assert ("x" in valid.columns) == (known["x"].kind != "ignored")


def test_a_bound_of_a_column_without_values_in_the_sample_holds_later():
    known = columns_of({"x": [None, ""] * 9, "y": list(range(18))}, columns={"x": ColumnDeclaration(minimum=0)})
    _, rejected = validation.validate(pl.DataFrame({"x": ["-1", "1"], "y": [1, 2]}), list(known.values()), "y")
    assert rejected[validation.REASON].to_list() == ["column x: less than 0"]
