"""Slices of the hold-out rows: by which columns, the slice of each row, and how candidate and champion do on each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import polars as pl

from rayworks.errors import ParameterError
from rayworks.params import EvaluateOptions
from rayworks.records import Dataset

AT_MOST = 20  # values of a column that is sliced by default
SHOWN = 50


@dataclass(frozen=True)
class Slice:
    """The rows where ``column`` is ``value``."""

    column: str
    value: str
    rows: np.ndarray
    """Whether each row belongs to it."""


def columns(dataset: Dataset, chosen: Sequence[str] | None) -> list[str]:
    """Return the columns to slice by: the chosen ones, or the categorical and boolean ones with few values.

    Raises:
        ParameterError: A chosen column does not exist, or is ignored.
    """
    known = {column.name: column for column in dataset.feature_set.columns}
    if chosen is not None:
        if unknown := [name for name in chosen if name not in known]:
            raise ParameterError(
                "cannot slice by an unknown column",
                where=", ".join(unknown),
                detail=f"columns: {', '.join(known)}",
                remedy="Choose columns that the dataset uses",
            )
        return list(chosen)
    few = {s.name for s in dataset.split("train").statistics if 2 <= len(s.values) <= AT_MOST}
    return [name for name, column in known.items() if name in few or column.kind == "boolean"]


def of(columns: pl.DataFrame, options: EvaluateOptions) -> list[Slice]:
    """Return the slices by each column that are large enough to be measured."""
    slices: list[Slice] = []
    for column in columns.iter_columns():
        values = slice_values(column)
        for value, rows in values.alias("value").value_counts(sort=True).head(SHOWN).iter_rows():
            if rows >= options.minimum_slice_rows:
                slices.append(Slice(column.name, value, (values == value).to_numpy()))
    return slices


def slice_values(values: pl.Series) -> pl.Series:
    """Return the slice of each row, as text: its value, the quartile of many different numbers, or 'missing'."""
    temporal = values.dtype.is_temporal()
    if (values.dtype.is_numeric() or temporal) and values.n_unique() > AT_MOST:
        values = _quartiles(values, temporal=temporal)
    return values.cast(pl.String).fill_null("missing")


def _quartiles(values: pl.Series, *, temporal: bool) -> pl.Series:
    """Return the range of each value, from one quartile (exclusive, except the lowest) to the next: '12 to 47'."""
    numbers = values.to_physical().cast(pl.Float64) if temporal else values.cast(pl.Float64)
    edges = np.unique(np.quantile(numbers.drop_nulls().to_numpy(), [0, 0.25, 0.5, 0.75, 1]))
    names = _dates(edges) if temporal else [f"{edge:.6g}" for edge in edges]
    ranges = [f"{low} to {high}" for low, high in pairwise(names)]
    quartiles = np.searchsorted(edges[1:-1], numbers.fill_null(0).to_numpy())
    is_null = values.is_null()
    return pl.Series([None if null else ranges[index] for index, null in zip(quartiles, is_null, strict=True)])


def _dates(microseconds: np.ndarray) -> list[str]:
    """Return times since 1970 as days, with the time of day if days alone are not distinct."""
    times = [f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M}" for time in microseconds]
    days = [time[:10] for time in times]
    return days if len(set(days)) == len(days) else times
