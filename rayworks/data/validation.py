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
TRUE_TEXT, FALSE_TEXT = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
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


def typed(name: str, source: pl.DataType, dtype: str) -> pl.Expr:
    """Return the column ``name`` of type ``source``, converted to ``dtype``; null where it is missing or invalid."""
    column = pl.col(name)
    if source == pl.String:
        text = present_text(column)
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
                number = text.cast(pl.Float64, strict=False)
                return pl.when(number.is_finite()).then(number)
    if dtype == "float":
        number = column.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)
    if dtype == "timestamp" and isinstance(source, pl.Datetime) and source.time_zone:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(POLARS_TYPES[dtype], strict=False)


def present_text(column: pl.Expr) -> pl.Expr:
    """Return text without surrounding blanks; null for the usual marks of a missing value."""
    text = column.str.strip_chars()
    return pl.when(~text.is_in(MISSING_TEXT)).then(text)


def timestamp(text: pl.Expr) -> pl.Expr:
    """Return text as UTC without a zone, by the first of ``TIMESTAMP_FORMATS`` that matches."""
    plain = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ").str.replace(r"(Z|\+00:?00)$", "")
    zoned = plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC")
    formats = [plain.str.to_datetime(layout, strict=False, time_unit="us") for layout in TIMESTAMP_FORMATS]
    return pl.coalesce(*formats, zoned.dt.replace_time_zone(None))


def is_missing(name: str, source: pl.DataType) -> pl.Expr:
    """Return whether the raw value is missing."""
    if source == pl.String:
        return present_text(pl.col(name)).is_null()
    return pl.col(name).is_null() | pl.col(name).is_nan() if source.is_float() else pl.col(name).is_null()


def validate(raw: pl.DataFrame, columns: Sequence[Column], target: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split ``raw`` into typed rows that satisfy ``columns``, and rejected raw rows.

    A column that the raw rows lack is null. The target must have a value.

    Returns:
        Valid rows with exactly ``columns``, typed (the target is one of them), and rejected raw rows with the first
        reason in ``REASON``.
    """
    used = [column for column in columns if column.kind != "ignored"]
    present = dict(raw.schema)
    values = [
        typed(c.name, present[c.name], c.dtype).alias(c.name)
        if c.name in present
        else pl.lit(None, POLARS_TYPES[c.dtype]).alias(c.name)
        for c in used
    ]
    converted = raw.select(*values, *([ROW] if ROW in raw.columns else []))
    reasons = [reason for c in used for reason in _reasons(c, raw, converted, target)]
    if not reasons:
        return converted, raw.clear().with_columns(pl.lit("").alias(REASON))
    reason = pl.select(pl.coalesce(*reasons)).to_series()
    bad = reason.is_not_null()
    return converted.filter(~bad), raw.with_columns(reason.alias(REASON)).filter(bad)


def _reasons(column: Column, raw: pl.DataFrame, converted: pl.DataFrame, target: str) -> list[pl.Series]:
    """For each rule of ``column`` that some row breaks: the reason for each row, or null."""
    name = column.name
    value = converted[name]
    reasons: list[pl.Series] = []

    def add(bad: pl.Series, reason: pl.Expr) -> None:
        if bad.any():
            reasons.append(raw.select(pl.when(bad).then(reason)).to_series())

    if name in raw.columns and value.null_count() > raw[name].null_count():  # else every value was converted
        missing = raw.select(is_missing(name, raw.schema[name])).to_series()
        shown = pl.col(name).cast(pl.String, strict=False).str.slice(0, 60)
        add(
            value.is_null() & ~missing,
            pl.format(f"column {{}}: '{{}}' is not {WORDS[column.dtype]}", pl.lit(name), shown.fill_null("?")),
        )
    if name == target:
        add(value.is_null(), pl.lit(f"the target {name} is missing"))
    elif column.required:
        add(value.is_null(), pl.lit(f"column {name}: a value is required"))
    if column.minimum is not None:
        add((value < column.minimum).fill_null(False), pl.lit(f"column {name}: less than {column.minimum:g}"))
    if column.maximum is not None:
        add((value > column.maximum).fill_null(False), pl.lit(f"column {name}: more than {column.maximum:g}"))
    if column.allowed is not None:
        allowed = value.cast(pl.String).is_in(list(column.allowed)).fill_null(True)
        add(~allowed, pl.lit(f"column {name}: not one of the allowed values"))
    return reasons


def reason_class(reason: str) -> str:
    """Return a reason without its value, for counting: ``age: 'abc' is not a number`` becomes ``age: not a number``."""
    start, quote, rest = reason.partition(": '")
    return f"{start}: {rest.rpartition(chr(39) + ' is ')[2]}" if quote else reason
