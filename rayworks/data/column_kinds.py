"""Infer from a sample what its columns hold, and what kind of problem its target poses. Pure."""

import difflib
import re
from collections.abc import Sequence
from typing import Literal

import polars as pl

from rayworks.data import validation
from rayworks.errors import DataError, ParameterError
from rayworks.params import ColumnDeclaration, ProcessOptions
from rayworks.records import Column, ColumnKind, Problem

Dtype = Literal["integer", "float", "string", "boolean", "timestamp"]
UNDERSTOOD_SHARE = 0.95  # of the values of a text column must convert for it to have that type; the rest are rejected
CLASSES_AT_MOST = 20  # distinct whole numbers in a target that are still classes
CLASSES_CEILING = 1000
DEFAULT_DTYPES: dict[str, Dtype] = {
    "numeric": "float",
    "categorical": "string",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "ignored": "string",
}


def infer_columns(sample: pl.DataFrame, target: str, options: ProcessOptions) -> tuple[Column, ...]:
    """Return the columns of ``sample``, declared or inferred, including the target.

    Raises:
        DataError: The target does not exist, or can be neither amounts nor classes.
        ParameterError: A declaration names a column that does not exist, or a kind that its values cannot have.
    """
    if target not in sample.columns:
        raise DataError(
            f"the target column {target!r} is not in the data",
            where=", ".join(sample.columns[:40]),
            remedy=_did_you_mean(target, sample.columns),
        )
    for name in options.columns:
        if name not in sample.columns:
            raise ParameterError(
                f"the declared column {name!r} is not in the data",
                where=", ".join(sample.columns[:40]),
                remedy=_did_you_mean(name, sample.columns),
            )
    return tuple(
        _column(sample[name], options.columns.get(name, ColumnDeclaration.model_validate({})), is_target=name == target)
        for name in sample.columns
    )


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    lowered = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"Did you mean {lowered[close[0]]!r}?" if close else "Name one of its columns"


def _column(values: pl.Series, declared: ColumnDeclaration, *, is_target: bool) -> Column:
    kind, dtype, note = _kind(values)
    plain = not _is_no_plain_value(values.dtype)
    if is_target and (not plain or (kind == "timestamp" and declared.kind in ("auto", "timestamp"))):
        raise DataError(
            f"the target holds {'times' if plain else f'{values.dtype} values'}, which are neither amounts nor classes",
            where=values.name,
            remedy="Predict a number, such as the days since a date, or text",
        )
    if not plain and declared.kind not in ("auto", "ignored"):
        raise ParameterError(
            f"a column of {values.dtype} values can only be ignored",
            where=values.name,
            detail=f"declared {declared.kind}",
            remedy="Split it into columns of plain values",
        )
    if declared.kind != "auto":
        if declared.kind != kind:
            dtype = DEFAULT_DTYPES[declared.kind]
        kind, note = declared.kind, "declared"
    elif is_target and dtype == "boolean" and values.dtype == pl.String:  # its classes are the words in the data
        kind, dtype = "categorical", "string"
    elif is_target and kind == "ignored":  # a column that is useless as an input may still be a target
        kind, dtype, note = "categorical", "string", ""
    return Column(
        name=values.name,
        kind=kind,
        dtype=dtype,
        declared=declared.kind != "auto",
        required=declared.required,
        minimum=declared.minimum,
        maximum=declared.maximum,
        note=note,
        allowed=None if declared.allowed is None else tuple(declared.allowed),
    )


def _kind(values: pl.Series) -> tuple[ColumnKind, Dtype, str]:
    """The kind, type and note of a column, inferred from its values."""
    if _is_no_plain_value(values.dtype):
        return "ignored", "string", f"{values.dtype} values"
    dtype = _dtype_of_text(values) if values.dtype == pl.String else _dtype_of_typed(values.dtype)
    understood = values.to_frame().select(validation.typed(values.name, values.dtype, dtype)).to_series().drop_nulls()
    distinct, rows = understood.n_unique(), len(understood)
    if rows == 0:
        return "ignored", dtype, f"no values in the {len(values):,} rows of the sample"
    if distinct == 1:
        return "ignored", dtype, "constant"
    if dtype in ("integer", "float"):
        identifier = distinct == rows > 20 and re.search(
            r"(^|[_\W])(id|uuid|index|key)$|^unnamed_\d+$", values.name.lower()
        )
        return (
            ("ignored", dtype, "every value differs, named like an identifier")
            if identifier
            else ("numeric", dtype, "")
        )
    if dtype == "string":
        if rows > 20 and distinct > 0.9 * rows:
            return "ignored", dtype, "almost every value differs"
        return "categorical", dtype, ""
    return ("boolean" if dtype == "boolean" else "timestamp"), dtype, ""


def _is_no_plain_value(dtype: pl.DataType) -> bool:
    return dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object | pl.Duration | pl.Time)


def _dtype_of_typed(dtype: pl.DataType) -> Dtype:
    if dtype.is_integer() and not isinstance(
        dtype, pl.UInt64 | pl.Int128 | pl.UInt128
    ):  # whose values may not fit 64 bits
        return "integer"
    if dtype.is_numeric():
        return "float"
    if dtype.is_temporal():
        return "timestamp"
    return "boolean" if dtype == pl.Boolean else "string"


def _dtype_of_text(values: pl.Series) -> Dtype:
    """The narrowest type to which nearly all values of a text column convert."""
    present = values.to_frame().select(validation.present_text(pl.col(values.name))).to_series().drop_nulls()
    if present.is_empty():
        return "string"
    candidates: tuple[Dtype, ...] = ("float", "timestamp", "boolean")
    for dtype in candidates:
        fitting = (
            present.to_frame().select(validation.typed(values.name, pl.String(), dtype).is_not_null().mean()).item()
        )
        if fitting >= UNDERSTOOD_SHARE:
            return dtype
    return "string"


def infer_problem(values: pl.Series, declared: Problem | Literal["auto"]) -> Literal["regression", "classification"]:
    """Return whether typed target values are amounts or classes.

    Booleans and text are classes. Numbers are amounts, unless they are whole and have few distinct values.
    """
    if declared != "auto":
        return "regression" if declared == "regression" else "classification"
    present = values.drop_nulls()
    if not present.dtype.is_numeric():
        return "classification"
    whole = bool((present == present.floor()).all()) if present.dtype.is_float() else True
    distinct = present.n_unique()
    few = distinct == 2 or distinct <= min(CLASSES_AT_MOST, max(2, len(present) // 10))
    return "classification" if whole and few else "regression"


def problem_of_classes(
    classes: Sequence[object], declared: Problem | Literal["auto"], target: str, rows: int
) -> Problem:
    """Return binary or multiclass, by the classes of all rows.

    Raises:
        DataError: There is only one class, too many for the rows, or more than two although binary was declared.
    """
    shown = ", ".join(repr(label) for label in classes[:6])
    if len(classes) < 2:
        raise DataError(
            "the target has only one value, there is nothing to learn", where=target, detail=f"always {shown}"
        )
    if len(classes) > min(CLASSES_CEILING, max(2, rows // 2)):
        raise DataError(
            f"the target has {len(classes)} classes in {rows:,} rows",
            where=target,
            detail=shown,
            remedy="Name a target with fewer; if these are amounts, write them like 1234.5 "
            "and set process.problem to regression",
        )
    if declared == "binary" and len(classes) > 2:
        raise DataError(
            f"the target has {len(classes)} classes, not two",
            where=target,
            detail=shown,
            remedy="Set process.problem to multiclass",
        )
    return "binary" if len(classes) == 2 and declared != "multiclass" else "multiclass"
