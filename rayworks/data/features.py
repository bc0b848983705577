"""Turn typed raw rows into features, the same way in training and in serving. Pure, except for the user's function."""

import traceback
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from rayworks import import_path
from rayworks.data import validation
from rayworks.errors import DataError, ParameterError, first_line
from rayworks.records import Column, Feature, FeatureSet, Target, TimestampPart

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PARTS: dict[TimestampPart, Callable[[pl.Expr], pl.Expr]] = {
    "month": lambda time: time.dt.month(),
    "day_of_year": lambda time: time.dt.ordinal_day(),
    "day_of_week": lambda time: time.dt.weekday(),
    "hour": lambda time: time.dt.hour(),
}


def plan(sample: pl.DataFrame, columns: Sequence[Column], function: str | None, target: str) -> FeatureSet:
    """Decide which features to derive from ``columns`` (without the target). Their categories are added later.

    No feature has the name of ``target`` or of another column, because all are stored in one table.

    Args:
        sample: Typed rows with ``columns``.
        columns: The input columns.
        function: Import path of the user's feature function.
        target: Name of the target column.

    Raises:
        ParameterError: The function cannot be loaded, does not just add columns, or adds others for a single row.
        DataError: No column is left to predict from.
    """
    taken = {target, *(column.name for column in columns)}
    features = [feature for column in columns for feature in _of_column(column.name, column.kind, sample, taken)]
    for added in _added_to_any_rows(sample, function).iter_columns() if function else ():
        if added.name in taken:
            raise ParameterError(
                "the feature function adds a column whose name already exists",
                where=str(function),
                detail=added.name,
                remedy="Give it another name",
            )
        kind = "timestamp" if added.dtype.is_temporal() else "categorical" if added.dtype == pl.String else "numeric"
        features += _of_column(added.name, kind, added.to_frame(), taken)
    if not features:
        notes = "; ".join(f"{c.name}: {c.note}" for c in columns if c.note)
        raise DataError("no column is left to predict from", where=notes, remedy="Declare the kinds of the columns")
    return FeatureSet(
        columns=tuple(c for c in columns if c.kind != "ignored"), function=function, features=tuple(features)
    )


def _of_column(name: str, kind: str, sample: pl.DataFrame, taken: set[str]) -> list[Feature]:
    if kind in ("numeric", "boolean"):
        return [Feature(name=name, kind="numeric", source=name)]
    if kind == "categorical":
        return [Feature(name=name, kind="categorical", source=name)]
    if kind == "timestamp":
        parts: list[TimestampPart] = [
            part for part, of in PARTS.items() if sample.select(of(pl.col(name)).n_unique()).item() > 1
        ]
        return [Feature(name=_free(f"{name}_{part}", taken), kind="numeric", source=name, part=part) for part in parts]
    return []


def _free(name: str, taken: set[str]) -> str:
    """``name``, with underscores appended until it is unique, and add it to ``taken``."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def transform(raw: pl.DataFrame, feature_set: FeatureSet, known: Collection[str] = ()) -> pl.DataFrame:
    """Return one column for each feature (Float64 or String), with one row for each row of ``raw``.

    Args:
        raw: Typed rows with the columns of ``feature_set``.
        known: The names of features to leave out.

    Raises:
        ParameterError: The feature function failed, did not just add columns, or added others than for the sample.
    """
    features = [feature for feature in feature_set.features if feature.name not in known]
    expressions = [_expression(feature).alias(feature.name) for feature in features]
    if not feature_set.function:
        return raw.select(expressions)
    added = _added(raw, feature_set.function)
    sources = [feature.source for feature in feature_set.features]
    planned = [name for name in dict.fromkeys(sources) if name not in raw.columns]
    # A time that is the same in the whole sample has no features.
    _check_columns(
        feature_set.function, planned, [c.name for c in added if c.name in sources or not c.dtype.is_temporal()]
    )
    try:
        transformed = raw.hstack(added).select(expressions)
    except pl.exceptions.PolarsError as error:
        raise ParameterError(
            "the feature function returned a column of another type than for the sample",
            where=feature_set.function,
            detail=first_line(error),
            remedy="Return columns of the same types for any rows",
        ) from error
    _check_numbers(transformed.select(f.name for f in features if f.source in planned), feature_set)
    return transformed


def _check_columns(path: str, planned: Sequence[str], added: Sequence[str]) -> None:
    missing, extra = [n for n in planned if n not in added], [n for n in added if n not in planned]
    if missing or extra:
        lists = (("missing", missing), ("extra", extra))
        raise ParameterError(
            "the feature function adds other columns to some rows than to others",
            where=path,
            detail="; ".join(f"{word}: {', '.join(names[:10])}" for word, names in lists if names),
            remedy="Add the same columns to any rows, even to a single one: pd.get_dummies, for example, needs a "
            "pd.Categorical with all categories",
        )


def _check_numbers(added: pl.DataFrame, feature_set: FeatureSet) -> None:
    """Refuse numbers that a model would take for infinite."""
    numbers = [name for name, dtype in added.schema.items() if dtype.is_float()]
    too_large = added.select((pl.col(numbers).abs() > validation.LARGEST) & ~pl.col(numbers).is_nan()).sum()
    rows = {name: count for name, count in (too_large.row(0, named=True) if numbers else {}).items() if count}
    if rows:
        raise ParameterError(
            "the feature function returned infinite or too large numbers",
            where=str(feature_set.function),
            detail=", ".join(f"{name} in {count:,} of {len(added):,} rows" for name, count in rows.items()),
            remedy="Return NaN where there is no value, such as after a division by zero",
        )


def _expression(feature: Feature) -> pl.Expr:
    column = pl.col(feature.source)
    if feature.part:
        return PARTS[feature.part](column).cast(pl.Float64)
    return column.cast(pl.Float64 if feature.kind == "numeric" else pl.String)


def _added_to_any_rows(sample: pl.DataFrame, path: str) -> pl.DataFrame:
    """The columns that the user's function adds to ``sample``, if it adds the same to a single row: the served model
    gets single rows."""
    added = _added(sample, path)
    _check_columns(path, added.columns, _added(sample.head(1), path).columns)
    return added


def _added(raw: pl.DataFrame, path: str) -> pl.DataFrame:
    """The columns that the user's function adds to ``raw``."""
    function = import_path.load(path)
    before = validation.without_categories(raw).to_pandas()
    try:
        after: Any = function(before.copy())
    except Exception as error:  # user code: it may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ParameterError(
            "the feature function failed",
            where=path,
            detail=f"{type(error).__name__}: {error}, at {frame.filename}:{frame.lineno}",
            remedy="Fix it, and run again",
        ) from error
    remedy = "Return the same rows in the same order, with columns added and none changed"
    if type(after) is not type(before) or len(after) != len(before):
        difference = f"{len(before)} rows in, {len(after)} out" if hasattr(after, "__len__") else type(after).__name__
        raise ParameterError(
            "the feature function must return a DataFrame of the same rows",
            where=path,
            detail=difference,
            remedy=remedy,
        )
    changed = [
        str(name) for name in before.columns if name not in after.columns or not after[name].equals(before[name])
    ]
    if changed:
        raise ParameterError(
            "the feature function changed or dropped columns", where=path, detail=", ".join(changed), remedy=remedy
        )
    added = after[[name for name in after.columns if name not in before.columns]]
    try:
        return _plain(pl.from_pandas(added.reset_index(drop=True)))
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ParameterError(
            "the feature function returned a column that is not numbers, text or timestamps",
            where=path,
            detail=str(error),
            remedy="Give each column values of one of these types: .dt.total_seconds() makes numbers of durations",
        ) from error


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with categories as text and dates as timestamps. Raise TypeError for columns that are neither numbers,
    text nor timestamps."""
    frame = validation.without_categories(frame)
    others = [f"{name} is {dtype}" for name, dtype in frame.schema.items() if not validation.is_plain(dtype)]
    if others:
        raise TypeError(", ".join(others))
    return frame.with_columns(pl.col(pl.Date).cast(pl.Datetime("us")))


def encode(features_frame: pl.DataFrame, features: Sequence[Feature]) -> "pd.DataFrame":
    """Return the inputs of a model: float64 with NaN, or ``Categorical``.

    A categorical column has exactly the feature's categories; every other value becomes missing.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for feature in features:
        values = features_frame[feature.name]
        if feature.kind == "numeric":
            columns[feature.name] = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        else:
            codes = values.cast(pl.String).replace_strict(
                list(feature.categories), list(range(len(feature.categories))), default=-1, return_dtype=pl.Int32
            )
            columns[feature.name] = cast(Any, pd.Categorical).from_codes(
                codes.to_numpy(), categories=list(feature.categories)
            )
    return pd.DataFrame(columns)


def encode_target(values: pl.Series, target: Target) -> "np.ndarray":
    """Return amounts as float64, or class numbers as int64."""
    if target.problem == "regression":
        return values.cast(pl.Float64).to_numpy()
    labels = pl.Series(target.classes, dtype=values.dtype)
    numbers = values.replace_strict(labels, pl.Series(range(len(labels))), return_dtype=pl.Int64)
    return numbers.to_numpy()
