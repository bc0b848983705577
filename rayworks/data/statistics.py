"""Statistics of each column that can be merged, so that each task counts its own chunk. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from rayworks.records import ColumnKind, ColumnStatistics

BINS = 40
VALUES_SHOWN = 30
DISTINCT_AT_MOST = 10_000
VALUES_BY_BLOCK = 100


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
        if dtype != pl.String
    )


def _present(values: pl.Series) -> pl.Series:
    """The values that are not null. ``drop_nulls`` starts a query each time."""
    return values.drop_nulls() if values.null_count() else values


def value_counts(values: pl.Series) -> dict[Any, int]:
    """Return how often each value occurs."""
    distinct, counts = values.alias("value").value_counts().get_columns()
    return dict(zip(distinct, counts, strict=True))


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

    def add(self, rows: pl.DataFrame) -> None:
        """Count ``rows``."""
        self.rows += len(rows)
        self.missing.update({name: int(count) for name, count in rows.null_count().row(0, named=True).items()})
        for values in _as_numbers(rows).iter_columns():
            present = _present(values).to_numpy()
            if len(present):
                moments = (len(present), present.sum(), np.square(present).sum(), present.min(), present.max())
                self._add_moments(values.name, tuple(float(m) for m in moments))
                self._add_bins(values.name, _histogram(present, self.edges.get(values.name)))
        for name, dtype in rows.schema.items():
            if dtype == pl.String:
                self._add_values(name, value_counts(_present(rows[name])))

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

    def frequent(self) -> "Statistics":
        """Return the same counts with the most frequent text values alone, to be kept for each block of time."""
        values = {name: Counter(dict(counts.most_common(VALUES_BY_BLOCK))) for name, counts in self.values.items()}
        return replace(self, distinct_at_most=VALUES_BY_BLOCK, values=values)

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
            shown = [value for value, _ in counted.most_common(VALUES_SHOWN)] if values is None else values
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


def _histogram(present: np.ndarray, edges: tuple[float, ...] | None) -> np.ndarray:
    if not edges:
        return np.zeros(0, dtype="int64")
    bins = len(edges) - 1
    position = (present - edges[0]) * (bins / (edges[-1] - edges[0]))
    return np.bincount(np.clip(position, 0, bins - 1).astype("int64"), minlength=bins)
