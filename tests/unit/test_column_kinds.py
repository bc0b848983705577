"""The kinds of columns and the problem are inferred from the values. Pure."""

from datetime import timedelta

import polars as pl
import pytest

from rayworks.data import column_kinds
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
