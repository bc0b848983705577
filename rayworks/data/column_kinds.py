"""Infer from a sample what its columns hold, and what kind of problem its target poses. Pure."""

import difflib
import json
import re
from collections.abc import Collection, Sequence
from typing import Literal

import polars as pl

from rayworks.data import validation
from rayworks.errors import DataError, ParameterError
from rayworks.params import ColumnDeclaration, ProcessOptions
from rayworks.records import Column, ColumnKind, Label, Problem

Dtype = Literal["integer", "float", "string", "boolean", "timestamp"]
UNDERSTOOD_SHARE = 0.95  # of the values of a text column must convert for it to have that type; the rest are rejected
NEARLY_SHARE = 0.8  # from here on, a text column may have been meant to have that type
CLASSES_AT_MOST = 20  # distinct whole numbers in a target that are still classes
CLASSES_CEILING = 1000
IDENTIFIER = re.compile(
    r"(?i:(^|[_\W])(id|uuid|index|key|row_?names?|row_?number)$|^unnamed(_|: )\d+(\.\d+)?$|^(__)?index_level_\d+(__)?$)"
    r"|[a-z](Id|ID|Uuid|UUID|Key)$"
)
KINDS_IN_WORDS = {"float": "numbers", "timestamp": "dates or times"}
JSON_EXAMINED = 100  # values of a text column
DEFAULT_DTYPES: dict[str, Dtype] = {
    "numeric": "float",
    "categorical": "string",
    "boolean": "boolean",
    "timestamp": "timestamp",
}
NO_VALUES = "no values"


def in_one(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of all ``frames``. A column whose types in them mean different things becomes text, without its
    values that are not plain."""
    common: dict[str, pl.DataType] = {}
    for name in dict.fromkeys(name for frame in frames for name in frame.columns):
        found = dict.fromkeys(frame.schema[name] for frame in frames if name in frame.columns)
        types = [dtype for dtype in found if dtype != pl.Null]
        if len(types) > 1 and not _mean_the_same(types):
            common[name] = pl.String() if any(map(validation.is_plain, types)) else types[0]

    def converted(frame: pl.DataFrame) -> pl.DataFrame:
        plain = {name: validation.is_plain(frame.schema[name]) for name in common if name in frame.columns}
        return frame.with_columns(
            pl.col(name).cast(common[name]) if is_plain else pl.lit(None, common[name]).alias(name)
            for name, is_plain in plain.items()
        )

    return pl.concat(map(converted, frames), how="diagonal_relaxed")


def _mean_the_same(types: Sequence[pl.DataType]) -> bool:
    """Return whether Polars has a type for values of all ``types``, and would not take times for numbers to find it."""
    if len({(validation.is_plain(dtype), dtype.is_temporal()) for dtype in types}) > 1:
        return False
    try:
        pl.concat([pl.DataFrame(schema={"values": dtype}) for dtype in types], how="vertical_relaxed")
    except pl.exceptions.PolarsError:
        return False
    return True


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
    return tuple(_column(sample[name], options, is_target=name == target) for name in sample.columns)


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    lowered = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"Did you mean {lowered[close[0]]!r}?" if close else "Name one of its columns"


def _column(values: pl.Series, options: ProcessOptions, *, is_target: bool) -> Column:
    declared = options.columns.get(values.name, ColumnDeclaration.model_validate({}))
    missing = None if options.missing_values is None else ("", *options.missing_values)
    inferred = _inferred(values, missing)
    column = inferred.model_copy(
        update={
            "declared": declared.kind != "auto",
            "required": declared.required,
            "minimum": declared.minimum,
            "maximum": declared.maximum,
            "allowed": None if declared.allowed is None else tuple(declared.allowed),
        }
    )
    if declared.kind != "auto":
        _check_plain(values, declared)
        keeps_type = declared.kind in (inferred.kind, "ignored")
        dtype = inferred.dtype if keeps_type else DEFAULT_DTYPES[declared.kind]
        column = column.model_copy(update={"kind": declared.kind, "dtype": dtype, "note": "declared", "warning": ""})
    elif inferred.note.startswith(NO_VALUES) and (declared.minimum, declared.maximum) != (None, None):
        column = column.model_copy(update={"dtype": "float"})
    if is_target:
        column = _as_target(column, values, options.problem)
    _check_rules(column, values, inferred)
    return column


def _inferred(values: pl.Series, missing: tuple[str, ...] | None) -> Column:
    """The column as its values look."""
    column = Column(name=values.name, kind="ignored", dtype="string", missing=missing)
    if not validation.is_plain(values.dtype):
        return column.model_copy(update={"note": f"{values.dtype} values"})
    marks = validation.missing_text(column)
    dtype, warning = _dtype_of_typed(values.dtype), ""
    if values.dtype == pl.String:
        present = values.to_frame().select(validation.present_text(pl.col(values.name), marks)).to_series().drop_nulls()
        if _is_json(present):
            return column.model_copy(update={"note": "lists or objects"})
        dtype, warning = _dtype_of_text(present)
    understood = values.to_frame().select(validation.typed(values.name, values.dtype, dtype, marks)).to_series()
    kind, note = _kind(understood, dtype)
    return column.model_copy(update={"kind": kind, "dtype": dtype, "note": note, "warning": warning})


def _kind(values: pl.Series, dtype: Dtype) -> tuple[ColumnKind, str]:
    """The kind and note of a column, inferred from its typed values."""
    present = values.drop_nulls()
    distinct, rows = present.n_unique(), len(present)
    if rows == 0:
        return "ignored", f"{NO_VALUES} in the {len(values):,} rows of the sample"
    if distinct == 1:
        return "ignored", f"constant in the {len(values):,} rows of the sample"
    if dtype in ("integer", "float"):
        differ = distinct == rows > 20 and bool((present == present.floor()).all())
        if differ and IDENTIFIER.search(values.name):
            return "ignored", "every value differs, named like an identifier"
        return "numeric", ""
    if dtype == "string":
        if rows > 20 and distinct > 0.9 * rows:
            return "ignored", "almost every value differs"
        return "categorical", ""
    return ("boolean" if dtype == "boolean" else "timestamp"), ""


def _check_plain(values: pl.Series, declared: ColumnDeclaration) -> None:
    if declared.kind != "ignored" and not validation.is_plain(values.dtype):
        raise ParameterError(
            f"a column of {values.dtype} values can only be ignored",
            where=values.name,
            detail=f"declared {declared.kind}",
            remedy="Split it into columns of plain values",
        )


def _as_target(column: Column, values: pl.Series, problem: Problem | Literal["auto"]) -> Column:
    """The column as a target: used even where it would be useless as an input."""
    lists = column.note == "lists or objects" or not validation.is_plain(values.dtype)
    if lists or column.dtype == "timestamp":
        shown = column.note if lists else "times"
        raise DataError(
            f"the target holds {shown}, which are neither amounts nor classes",
            where=column.name,
            remedy="Predict a number, such as the days since a date, or text",
        )
    if problem == "regression":
        return column.model_copy(update={"kind": "numeric", "dtype": "float"})
    if column.dtype in ("integer", "float"):
        return column.model_copy(update={"kind": "numeric", "note": ""})
    marks = validation.missing_text(column)
    if column.dtype == "boolean" and (column.declared or _only_true_and_false(values, marks)):
        return column.model_copy(update={"kind": "boolean", "note": ""})
    # The classes of text are the words in the data.
    warning = column.warning or _classes_that_count_as_missing(values, marks)
    return column.model_copy(update={"kind": "categorical", "dtype": "string", "note": "", "warning": warning})


def _only_true_and_false(values: pl.Series, missing: Sequence[str]) -> bool:
    """Return whether values are truth values, if only as text: what CSV writes as True is true in JSON."""
    if values.dtype != pl.String:
        return True
    texts = values.to_frame().select(validation.present_text(pl.col(values.name), missing)).to_series().unique()
    return set(texts.drop_nulls().str.to_lowercase()) <= {"true", "false"}


def _classes_that_count_as_missing(values: pl.Series, missing: Sequence[str]) -> str:
    if values.dtype != pl.String:
        return ""
    texts = values.str.strip_chars()
    lost = texts.filter(texts.is_in([mark for mark in missing if mark]).fill_null(False))
    if lost.is_empty():
        return ""
    words = ", ".join(repr(word) for word in lost.unique().sort())
    return (
        f"{len(lost) / len(values):.1%} of its values in the sample are {words}, which counts as missing, and these "
        "rows are rejected. If it is a class, set process.missing_values to the texts that mean missing"
    )


def _check_rules(column: Column, values: pl.Series, inferred: Column) -> None:
    """Refuse rules that the values of a column cannot follow."""
    bounds = [name for name in ("minimum", "maximum") if getattr(column, name) is not None]
    if bounds and column.dtype not in ("integer", "float"):
        detail = inferred.warning.split(". ")[0] or f"it holds {_words(column, values)}"
        numeric = ", or declare the kind numeric: rows with other values are then rejected"
        raise ParameterError(
            f"a {bounds[0]} needs a column of numbers",
            where=column.name,
            detail=detail,
            remedy=f"Remove the {bounds[0]}{numeric if inferred.warning else ''}",
        )
    if column.allowed is None:
        return
    understood = validation.allowed_values(column.allowed, column.dtype)
    wrong = [text for text, value in zip(column.allowed, understood, strict=True) if value is None]
    if wrong or not validation.is_plain(values.dtype):
        raise ParameterError(
            "an allowed value is not of the type of its column",
            where=column.name,
            detail=f"it holds {_words(column, values)}, not {', '.join(repr(text) for text in wrong[:5])}",
            remedy="Correct it, or declare the kind of the column",
        )


def _words(column: Column, values: pl.Series) -> str:
    if not validation.is_plain(values.dtype):
        return f"{values.dtype} values"
    return {**KINDS_IN_WORDS, "integer": "whole numbers", "boolean": "true and false", "string": "text"}[column.dtype]


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


def _dtype_of_text(present: pl.Series) -> tuple[Dtype, str]:
    """The narrowest type to which nearly all texts convert; or text, and a warning if most of them do."""
    if present.is_empty():
        return "string", ""
    warning = ""
    candidates: tuple[Dtype, ...] = ("float", "timestamp", "boolean")
    for dtype in candidates:
        fitting = present.to_frame().select(validation.typed(present.name, pl.String(), dtype, ()).is_not_null())
        fits = fitting.to_series()
        share = float(fits.sum()) / len(fits)
        if share >= UNDERSTOOD_SHARE:
            return dtype, ""
        if share >= NEARLY_SHARE and dtype in KINDS_IN_WORDS:
            example = present.filter(~fits).alias("value").value_counts(sort=True)["value"][0]
            warning = (
                f"it counts as text: {1 - share:.1%} of its values are not {KINDS_IN_WORDS[dtype]}, such as "
                f"{example!r}. Declare the kind {'numeric' if dtype == 'float' else dtype} to reject "
                "these rows, or set process.missing_values if they mean a missing value"
            )
    return "string", warning


def _is_json(present: pl.Series) -> bool:
    """Return whether nearly all texts are lists or objects as JSON."""
    brackets = present.str.contains(r"(?s)^(\{.*\}|\[.*\])$")
    if present.is_empty() or float(brackets.sum()) < UNDERSTOOD_SHARE * len(present):
        return False
    examined = present.head(JSON_EXAMINED).to_list()
    return sum(map(_parses, examined)) >= UNDERSTOOD_SHARE * len(examined)


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def infer_problem(
    classes: Collection[Label], rows: int, declared: Problem | Literal["auto"]
) -> Literal["regression", "classification"]:
    """Return whether the distinct values of a target are amounts or classes.

    Booleans and text are classes. Numbers are amounts, unless they are whole and have few distinct values.
    """
    if declared != "auto":
        return "regression" if declared == "regression" else "classification"
    numbers = [label for label in classes if isinstance(label, int | float) and not isinstance(label, bool)]
    if len(numbers) < len(classes):
        return "classification"
    whole = all(float(number).is_integer() for number in numbers)
    few = len(numbers) == 2 or len(numbers) <= min(CLASSES_AT_MOST, max(2, rows // 10))
    return "classification" if whole and few else "regression"


def problem_of_classes(
    classes: Sequence[object], declared: Problem | Literal["auto"], target: str, rows: int, warning: str = ""
) -> Problem:
    """Return binary or multiclass, by the classes of all rows. ``warning`` is that of the target's column.

    Raises:
        DataError: There is only one class, too many for the rows, or more than two although binary was declared.
    """
    shown = ", ".join(repr(label) for label in classes[:6])
    count = f"{len(classes)}" if len(classes) <= CLASSES_CEILING else f"more than {CLASSES_CEILING:,}"
    if len(classes) < 2:
        raise DataError(
            "the target has only one value, there is nothing to learn",
            where=target,
            detail="; ".join(filter(None, [f"always {shown}", warning])),
        )
    if len(classes) > min(CLASSES_CEILING, max(2, rows // 2)):
        raise DataError(
            f"the target has {count} classes in {rows:,} rows",
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
