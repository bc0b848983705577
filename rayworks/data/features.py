"""Turn typed raw rows into features, the same way in training and in serving. Pure, except for the user's function."""

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from rayworks import import_path
from rayworks.errors import DataError, ParameterError
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
        ParameterError: The function cannot be loaded, or does not just add columns.
        DataError: No column is left to predict from.
    """
    taken = {target, *(column.name for column in columns)}
    features = [feature for column in columns for feature in _of_column(column.name, column.kind, sample, taken)]
    for added in _added(sample, function).iter_columns() if function else ():
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


def transform(raw: pl.DataFrame, feature_set: FeatureSet) -> pl.DataFrame:
    """Return one column for each feature (Float64 or String), with one row for each row of ``raw``.

    Args:
        raw: Typed rows with the columns of ``feature_set``.

    Raises:
        ParameterError: The feature function failed, or did not just add columns.
    """
    if feature_set.function:
        raw = raw.hstack(_added(raw, feature_set.function))
    return raw.select(_expression(feature).alias(feature.name) for feature in feature_set.features)


def _expression(feature: Feature) -> pl.Expr:
    column = pl.col(feature.source)
    if feature.part:
        return PARTS[feature.part](column).cast(pl.Float64)
    return column.cast(pl.Float64 if feature.kind == "numeric" else pl.String)


def _added(raw: pl.DataFrame, path: str) -> pl.DataFrame:
    """The columns that the user's function adds to ``raw``."""
    function = import_path.load(path)
    before = raw.to_pandas()
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
            "the feature function returned values of mixed types", where=path, detail=str(error), remedy=remedy
        ) from error


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with categories as text. Raise TypeError for columns that are not numbers, text or timestamps."""
    texts = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    others = [name for name, dtype in frame.schema.items() if dtype.is_nested() or isinstance(dtype, pl.Object)]
    if others:
        raise TypeError(f"{', '.join(others)}: not numbers, text or timestamps")
    return frame.with_columns(pl.col(texts).cast(pl.String))


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
    numbers = values.replace_strict(list(target.classes), list(range(len(target.classes))), return_dtype=pl.Int64)
    return numbers.to_numpy()
