"""Statistics of each column that can be merged, so that each task counts its own chunk. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import polars as pl

from rayworks.records import ColumnKind, ColumnStatistics

BINS = 40
VALUES_SHOWN = 30
DISTINCT_AT_MOST = 10_000
VALUES_BY_BLOCK = 100
CACHED = 16_384  # numbers at a time: arrays of more leave the processor's cache, and take new pages each time


def edges_of(sample: pl.DataFrame) -> dict[str, tuple[float, ...]]:
    """Return histogram edges for the numeric columns of ``sample``. Values outside are counted in the outer bins."""
    edges: dict[str, tuple[float, ...]] = {}
    for values in _as_numbers(sample).iter_columns():
        present = values.drop_nulls()
        low, high = present.quantile(0.005), present.quantile(0.995)
        if low is not None and high is not None:
            edges[values.name] = tuple(np.linspace(low, high if high > low else low + 1, BINS + 1).tolist())
    return edges


def _as_numbers(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns that are ordered, as numbers: booleans as 0 and 1, timestamps as seconds since 1970."""
    return rows.select(
        (pl.col(name).dt.epoch("us") / 1e6 if dtype.is_temporal() else pl.col(name).cast(pl.Float64)).alias(name)
        for name, dtype in rows.schema.items()
        if not _is_text(dtype)
    )


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Enum)


def _present(values: pl.Series, firsts: Sequence[int]) -> tuple[pl.Series, list[int]]:
    """The values that are not null, and where the parts of the rows that begin at ``firsts`` begin among them, with the
    end of the last. ``drop_nulls`` starts a query each time."""
    bounds = [*firsts, len(values)]
    if not values.null_count():
        return values, bounds
    present = [last - first - values.slice(first, last - first).null_count() for first, last in pairwise(bounds)]
    return values.drop_nulls(), [0, *accumulate(present)]


def _coded(values: pl.Series) -> tuple[np.ndarray, list[str]]:
    """Text without nulls as numbers of its distinct values, and these."""
    if isinstance(values.dtype, pl.Enum):
        return values.to_physical().to_numpy(), values.dtype.categories.to_list()
    encoded: Any = values.to_arrow().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


@dataclass
class Statistics:
    """Counts of one split."""

    edges: dict[str, tuple[float, ...]]
    distinct_at_most: int = DISTINCT_AT_MOST
    """Text values that are counted in each column. When there are more than twice as many, the rarest are forgotten:
    the counts of the frequent ones stay exact, or nearly so."""
    rows: int = 0
    missing: Counter[str] = field(default_factory=Counter[str])
    moments: dict[str, tuple[int, float, float, float, float]] = field(default_factory=dict[str, Any])
    """For each numeric column: rows with a value, sum, sum of squares, minimum, maximum."""
    bins: dict[str, np.ndarray] = field(default_factory=dict[str, Any])
    values: dict[str, Counter[str]] = field(default_factory=dict[str, Any])

    def add(self, rows: pl.DataFrame, firsts: Sequence[int] = (0,)) -> list["Statistics"]:
        """Count ``rows``.

        Args:
            rows: With columns of numbers, truth values, timestamps and text.
            firsts: The first row of each part of the rows that is counted apart as well, in ascending order from 0.

        Returns:
            The counts of each part, with its most frequent text values alone, to be kept for each block of time.
        """
        parts = [
            Statistics(self.edges, VALUES_BY_BLOCK, rows=last - first) for first, last in pairwise([*firsts, len(rows)])
        ]
        text = [rows[name] for name, dtype in rows.schema.items() if _is_text(dtype)]
        for values in [*_as_numbers(rows).iter_columns(), *text]:
            present, bounds = _present(values, firsts)
            for part, (first, last) in zip(parts, pairwise(bounds), strict=True):
                part.missing[values.name] = part.rows - (last - first)
            self.missing[values.name] += len(values) - len(present)
            add = self._add_text if _is_text(values.dtype) else self._add_numbers
            add(present, bounds, parts)
        self.rows += len(rows)
        return parts

    def _add_numbers(self, present: pl.Series, bounds: Sequence[int], parts: Sequence["Statistics"]) -> None:
        """Count the values of a numeric column, here and in each part."""
        name, numbers = present.name, present.to_numpy()
        edges = self.edges.get(name)
        for part, (first, last) in zip(parts, pairwise(bounds), strict=True):
            if first == last:
                continue
            own = numbers[first:last]
            moments = (last - first, *map(float, (own.sum(), np.dot(own, own), own.min(), own.max())))
            histogram = _histogram(own, edges)
            for counted in (self, part):
                counted._add_moments(name, moments)
                counted._add_bins(name, histogram)

    def _add_text(self, present: pl.Series, bounds: Sequence[int], parts: Sequence["Statistics"]) -> None:
        """Count the values of a column of text, here and in each part."""
        codes, distinct = _coded(present)
        whole = np.zeros(len(distinct), "int64")
        for part, (first, last) in zip(parts, pairwise(bounds), strict=True):
            counts = np.bincount(codes[first:last], minlength=len(distinct))
            whole += counts
            part._add_values(present.name, _most_frequent(distinct, counts, VALUES_BY_BLOCK))
        self._add_values(present.name, _most_frequent(distinct, whole, len(distinct)))

    def merge(self, other: "Statistics") -> None:
        """Add the counts of another chunk."""
        self.rows += other.rows
        self.missing.update(other.missing)
        for name, moments in other.moments.items():
            self._add_moments(name, moments)
        for name, bins in other.bins.items():
            self._add_bins(name, bins)
        for name, counts in other.values.items():
            self._add_values(name, counts)

    def _add_values(self, name: str, new: Mapping[str, int]) -> None:
        counts = self.values.setdefault(name, Counter())
        counts.update(new)
        if len(counts) > 2 * self.distinct_at_most:
            kept = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: self.distinct_at_most]
            self.values[name] = Counter(dict(kept))

    def _add_moments(self, name: str, new: tuple[Any, ...]) -> None:
        old = self.moments.get(name)
        self.moments[name] = (
            new
            if old is None
            else (old[0] + new[0], old[1] + new[1], old[2] + new[2], min(old[3], new[3]), max(old[4], new[4]))
        )

    def _add_bins(self, name: str, new: np.ndarray) -> None:
        self.bins[name] = self.bins[name] + new if name in self.bins else new

    def of_column(self, name: str, kind: ColumnKind, values: Sequence[str] | None = None) -> ColumnStatistics:
        """Return the record of one column.

        Args:
            values: The values of a categorical column to show, such as those of another record. None: the most
                frequent ones.
        """
        if name in self.values:
            counted = self.values[name]
            most_frequent = nsmallest(VALUES_SHOWN, counted, key=lambda value: (-counted[value], value))
            shown = most_frequent if values is None else values
            return ColumnStatistics(
                name=name,
                kind=kind,
                rows=self.rows,
                missing=self.missing[name],
                values=tuple(shown),
                counts=tuple(counted[value] for value in shown),
            )
        if name not in self.moments:
            return ColumnStatistics(name=name, kind=kind, rows=self.rows, missing=self.missing[name])
        count, total, squares, low, high = self.moments[name]
        mean = total / count
        return ColumnStatistics(
            name=name,
            kind=kind,
            rows=self.rows,
            missing=self.missing[name],
            mean=mean,
            minimum=low,
            maximum=high,
            deviation=max(squares / count - mean * mean, 0.0) ** 0.5,
            edges=self.edges.get(name, ()),
            counts=tuple(int(n) for n in self.bins[name]),
        )


def _histogram(numbers: np.ndarray, edges: tuple[float, ...] | None) -> np.ndarray:
    """How many numbers are in each bin, those outside in the first or the last one; no bins without edges."""
    if not edges:
        return np.zeros(0, "int64")
    bins, scale = len(edges) - 1, (len(edges) - 1) / (edges[-1] - edges[0])
    counts, position = np.zeros(bins, "int64"), np.empty(min(len(numbers), CACHED))
    for first in range(0, len(numbers), CACHED):
        part = numbers[first : first + CACHED]
        within = position[: len(part)]
        np.subtract(part, edges[0], out=within)
        np.multiply(within, scale, out=within)
        np.clip(within, 0, bins - 1, out=within)
        counts += np.bincount(within.astype("int64"), minlength=bins)
    return counts


def _most_frequent(values: Sequence[str], counts: np.ndarray, at_most: int) -> dict[str, int]:
    """The counts of the values that occur, of the most frequent ones alone if they are more than ``at_most``."""
    occurring = np.flatnonzero(counts)
    if len(occurring) > at_most:
        occurring = occurring[np.argpartition(-counts[occurring], at_most)[:at_most]]
    return {values[number]: int(counts[number]) for number in occurring.tolist()}
