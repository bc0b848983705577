"""Turn raw rows into typed rows, and reject those that cannot be used, each with its reason. Pure."""

from collections.abc import Sequence

import polars as pl

from rayworks.data.reading import MISSING_TEXT
from rayworks.records import Column

REASON = "rayworks.reason"  # names that no user's column has
ROW = "rayworks.row"  # the number of a row in its file; kept in both results if the raw rows have it
TIMESTAMP_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
)
FULL_YEAR = r"^(?:\d{4}[-/]|\d\d?[./]\d\d?[./]\d{4}(?:\D|$))"  # %Y takes one digit too: 1.2.3 would be a date
TRUE_TEXT, FALSE_TEXT = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
LARGEST = 3.4028234663852886e38  # of float32, which models compute with: anything beyond becomes infinite
POLARS_TYPES = {
    "integer": pl.Int64,
    "float": pl.Float64,
    "string": pl.String,
    "boolean": pl.Boolean,
    "timestamp": pl.Datetime("us"),
}
WORDS = {
    "integer": "a whole number",
    "float": "a number",
    "string": "text",
    "boolean": "true or false",
    "timestamp": "a date or time",
}


def typed(name: str, source: pl.DataType, dtype: str, missing: Sequence[str] = MISSING_TEXT) -> pl.Expr:
    """Return the column ``name`` of type ``source``, converted to ``dtype``; null where it is missing or invalid.

    A number is no time, nor a time a number: in which unit it counts, and since when, only its writer knows.
    Values that are not plain, such as lists, are invalid. ``missing`` are the texts that mean a missing value. Of an
    enumeration, each value is converted once; where all are as they should be, it stays one.
    """
    column = pl.col(name)
    if isinstance(source, pl.Enum):
        values = source.categories.alias(name)
        converted = values.to_frame().select(typed(name, pl.String(), dtype, missing)).to_series()
        return column if dtype == "string" and converted.equals(values) else _gathered(converted, column)
    if source == pl.String:
        text = present_text(column, missing)
        match dtype:
            case "timestamp":
                return timestamp(text)
            case "boolean":
                lowered = text.str.to_lowercase()
                return pl.when(lowered.is_in(TRUE_TEXT)).then(True).when(lowered.is_in(FALSE_TEXT)).then(False)
            case "string":
                return text
            case "integer":
                number = text.cast(pl.Float64, strict=False)
                return pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False)
            case _:
                return _within_range(text.cast(pl.Float64, strict=False))
    if not is_plain(source) or (dtype != "string" and source.is_temporal() != (dtype == "timestamp")):
        return pl.repeat(None, pl.len(), dtype=POLARS_TYPES[dtype]).alias(name)
    if dtype == "boolean" and source.is_numeric():
        return pl.when(column == 1).then(True).when(column == 0).then(False)
    if dtype == "float":
        return _within_range(column.cast(pl.Float64, strict=False))
    if dtype == "integer" and source.is_float():
        return pl.when(column == column.floor()).then(column).cast(pl.Int64, strict=False)
    if dtype == "string" and source.is_float():  # a column of whole numbers has floats where some are missing
        number = column.fill_nan(None)
        whole = (number == number.floor()) & (number.abs() < 2**53)
        return (
            pl.when(whole).then(number.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(number.cast(pl.String))
        )
    if dtype == "timestamp" and isinstance(source, pl.Datetime) and source.time_zone:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(POLARS_TYPES[dtype], strict=False)


def _gathered(of_values: pl.Series, column: pl.Expr) -> pl.Expr:
    """What there is for each value of an enumeration, for each row of the column."""
    return pl.lit(of_values).gather(column.to_physical()).alias(of_values.name)


def without_categories(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with the categories of pandas as the text that they are."""
    return frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))


def is_plain(dtype: pl.DataType) -> bool:
    """Return whether values of a type can be numbers, text, truth values or times."""
    return dtype.is_numeric() or isinstance(dtype, pl.String | pl.Enum | pl.Boolean | pl.Date | pl.Datetime | pl.Null)


def _within_range(number: pl.Expr) -> pl.Expr:
    """The number; null if it is NaN, infinite, or too large."""
    return pl.when(number.abs() <= LARGEST).then(number)


def present_text(column: pl.Expr, missing: Sequence[str] = MISSING_TEXT) -> pl.Expr:
    """Return text without surrounding blanks; null for the texts that mean a missing value."""
    text = column.str.strip_chars()
    return pl.when(~text.is_in(list(missing))).then(text)


def missing_text(column: Column) -> Sequence[str]:
    """Return the texts that mean a missing value in a column."""
    return MISSING_TEXT if column.missing is None else column.missing


def timestamp(text: pl.Expr) -> pl.Expr:
    """Return text as UTC without a zone, by the first of ``TIMESTAMP_FORMATS`` that matches, if the year has four
    digits."""
    plain = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ").str.replace(r"(Z|\+00:?00)$", "")
    zoned = plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC")
    formats = [plain.str.to_datetime(layout, strict=False, time_unit="us") for layout in TIMESTAMP_FORMATS]
    parsed = pl.coalesce(*formats, zoned.dt.replace_time_zone(None))
    return pl.when(text.str.contains(FULL_YEAR)).then(parsed)


def is_missing(name: str, source: pl.DataType, missing: Sequence[str] = MISSING_TEXT) -> pl.Expr:
    """Return whether the raw value is missing."""
    if isinstance(source, pl.Enum):
        values = source.categories.alias(name).to_frame().select(is_missing(name, pl.String(), missing))
        return _gathered(values.to_series(), pl.col(name)).fill_null(True)
    if source == pl.String:
        return present_text(pl.col(name), missing).is_null()
    return pl.col(name).is_null() | pl.col(name).is_nan() if source.is_float() else pl.col(name).is_null()


def validate(raw: pl.DataFrame, columns: Sequence[Column], target: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split ``raw`` into typed rows that satisfy ``columns``, and rejected raw rows.

    A column that the raw rows lack is null. The target must have a value. The rules of ignored columns hold as well.

    Returns:
        Valid rows with exactly ``columns`` without the ignored ones, typed (the target is one of them), and rejected
        raw rows with the first reason in ``REASON``.
    """
    checked = [column for column in columns if column.kind != "ignored" or _has_rules(column)]
    present = dict(raw.schema)
    values = [
        _value(c, present[c.name]).alias(c.name)
        if c.name in present
        else pl.lit(None, POLARS_TYPES[c.dtype]).alias(c.name)
        for c in checked
    ]
    converted = raw.select(*values, *([ROW] if ROW in raw.columns else []))
    reasons = [reason for c in checked for reason in _reasons(c, raw, converted, target)]
    converted = converted.drop(c.name for c in checked if c.kind == "ignored")
    if not reasons:
        return converted, raw.clear().with_columns(pl.lit("").alias(REASON))
    reason = pl.select(pl.coalesce(*reasons)).to_series()
    bad = reason.is_not_null()
    return converted.filter(~bad), raw.with_columns(reason.alias(REASON)).filter(bad)


def _value(column: Column, source: pl.DataType) -> pl.Expr:
    if column.kind == "ignored" and column.dtype == "string" and not is_plain(source):
        return pl.when(pl.col(column.name).is_not_null()).then(pl.lit(""))  # a value, if one is required
    return typed(column.name, source, column.dtype, missing_text(column))


def _has_rules(column: Column) -> bool:
    return column.required or (column.minimum, column.maximum, column.allowed) != (None, None, None)


def _reasons(column: Column, raw: pl.DataFrame, converted: pl.DataFrame, target: str) -> list[pl.Series]:
    """For each rule of ``column`` that some row breaks: the reason for each row, or null."""
    name = column.name
    value = converted[name]
    reasons: list[pl.Series] = []

    def add(bad: pl.Series, reason: pl.Expr) -> None:
        if bad.any():
            reasons.append(raw.select(pl.when(bad).then(reason)).to_series())

    if name in raw.columns and value.null_count() > raw[name].null_count():  # else every value was converted
        missing = raw.select(is_missing(name, raw.schema[name], missing_text(column))).to_series()
        add(value.is_null() & ~missing, _not_understood(column, raw.schema[name]))
    if name == target:
        add(value.is_null(), pl.lit(f"the target {name} is missing"))
    elif column.required:
        add(value.is_null(), pl.lit(f"column {name}: a value is required"))
    if column.minimum is not None:
        add((value < column.minimum).fill_null(False), pl.lit(f"column {name}: less than {column.minimum:g}"))
    if column.maximum is not None:
        add((value > column.maximum).fill_null(False), pl.lit(f"column {name}: more than {column.maximum:g}"))
    if column.allowed is not None:
        value = value.cast(pl.String) if isinstance(value.dtype, pl.Enum) else value
        allowed = value.is_in(allowed_values(column.allowed, column.dtype).implode()).fill_null(True)
        add(~allowed, pl.lit(f"column {name}: not one of the allowed values"))
    return reasons


def _not_understood(column: Column, source: pl.DataType) -> pl.Expr:
    """The reason to reject a value that is not of the type of its column."""
    text = (
        pl.col(column.name).cast(pl.String, strict=False) if is_plain(source) else pl.lit(f"a value of type {source}")
    )
    problem = pl.lit(f"is not {WORDS[column.dtype]}")
    if column.dtype == "float":
        number = text.str.strip_chars().cast(pl.Float64, strict=False).abs()
        too_large = (number > LARGEST) & number.is_finite()
        problem = pl.when(too_large).then(pl.lit("is too large for a model")).otherwise(problem)
    return pl.format("column {}: '{}' {}", pl.lit(column.name), text.str.slice(0, 60).fill_null("?"), problem)


def allowed_values(allowed: Sequence[str], dtype: str) -> pl.Series:
    """Return the values that a column of type ``dtype`` may have; null for text that is not of that type."""
    texts = pl.DataFrame({"allowed": list(allowed)}, {"allowed": pl.String})
    return texts.select(typed("allowed", pl.String(), dtype, missing=())).to_series()


def reason_class(reason: str) -> str:
    """Return a reason without its value, for counting: ``age: 'abc' is not a number`` becomes ``age: not a number``."""
    start, quote, rest = reason.partition(": '")
    return f"{start}: {rest.rpartition(chr(39) + ' is ')[2]}" if quote else reason
