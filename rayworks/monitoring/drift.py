"""How far new rows are from those that a model learned from, by column, from the statistics of both. Pure.

**Distance.** The Jensen-Shannon distance (the root of the divergence in bits, from 0 to 1; Lin, "Divergence measures
based on the Shannon entropy", IEEE Transactions on Information Theory, 1991) between the shares of the bins or values,
with two more cells: all other values, and missing ones. The outer bins hold what lies outside of the edges.

**Chance.** Two samples of n and N rows of one distribution with k cells have a divergence all the same. To second order
it is 1/8 Σ (p - q)²/p nats, so that 8 ln 2 · nN/(n + N) times the divergence in bits has a χ² distribution with k - 1
degrees of freedom (as for weighted samples in Grosse and others, "Analysis of symbolic sequences using the
Jensen-Shannon divergence", Physical Review E 65, 2002). Its mean is subtracted. A cell that is expected to hold few
rows counts by what it adds on average if they have a Poisson distribution.

**Missing values.** They are compared alone as well, as two cells: a column whose values differ from week to week would
hide that a tenth of them is gone.

**Shift.** What lies outside of the edges is clipped, so the difference of the means in the reference's deviations says
what the bins cannot.

**Thresholds.** The training rows are counted by block of time. As far as one block is from the others, new rows may be
as well: the threshold of a column is the upper prediction limit for a further block, mean + t·s·√(1 + 1/n) of the n
distances (Hahn and Meeker, "Statistical Intervals", 1991), and at least a floor. The level is that of chance below. Of
few blocks this is far out, so the threshold is twice the largest distance at most.

**Verdict.** The data drift when any column is past its threshold by more than chance. The level of chance is divided by
the number of tests, so that it holds for all columns at once (Bonferroni's correction).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from rayworks.monitoring.drift_report import ColumnDrift, Past
from rayworks.records import ColumnStatistics, FeatureSet, TimeBlocks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

FLOOR, MISSING_FLOOR, SHIFT_FLOOR = 0.1, 0.125, 0.25
"""Of the distance: a normal distribution that shifts by ``SHIFT_FLOOR`` deviations moves about as far. Of that of
missing values: where none was missing, 3 % are, such as one day of a month."""
MOST_TIMES_THE_LARGEST = 2.0
CHANCE = 0.01
"""How probable an alarm is, by any of the columns, where the new rows have the distribution of the others; and where
they differ from these as one block of time does. ``benchmarks/drift.py`` measures it."""
TELLS_TIME = 0.75
"""Median distance of a block from the others above which a column is taken for one that tells the time. It is 0.83 for
a column that names one of seven months."""
MOST_COUNTED = 40
"""Expected rows above which a cell adds one degree of freedom, within a hundredth."""


@dataclass(frozen=True)
class Difference:
    """Between two sets of rows in one column."""

    distance: float
    """From 0 to 1, without what is due to chance on average."""
    distance_chance: float
    """How probable so large a divergence is for two samples of one distribution."""
    missing: float = 0.0
    """The same of missing values alone."""
    missing_chance: float = 1.0
    shift: float = 0.0
    """Of the mean, in deviations of the first set. 0 where there is none."""
    shift_chance: float = 1.0


@dataclass(frozen=True)
class Threshold:
    """What a column may differ by."""

    distance: float = FLOOR
    missing: float = MISSING_FLOOR
    shift: float = SHIFT_FLOOR


def difference(before: ColumnStatistics, now: ColumnStatistics) -> Difference:
    """Return how far two sets of rows are from each other.

    Args:
        before: The reference.
        now: Statistics with the same edges or values.
    """
    if not before.rows or not now.rows:
        return Difference(0.0, 1.0)
    cells = len(before.counts)
    missing = [(column.missing, _present(column)) for column in (before, now)]
    return Difference(*_distance(_cells(before, cells), _cells(now, cells)), *_distance(*missing), *_shift(before, now))


def _distance(before: "ArrayLike", now: "ArrayLike") -> tuple[float, float]:
    """The distance of two sets of rows, of which so many are in each cell, and how probable so large a one is."""
    import numpy as np
    from scipy import special

    old, new = np.asarray(before, dtype="float64"), np.asarray(now, dtype="float64")
    p, q = old / old.sum(), new / new.sum()
    middle = (p + q) / 2
    divergence = float((special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum()) / 2 / np.log(2)
    rows = old.sum() * new.sum() / (old.sum() + new.sum())
    unit = 1 / (8 * np.log(2) * rows)
    expected = (old + new) / (old + new).sum() * rows
    freedom = max(float(np.interp(expected, *_freedom(), left=0, right=1).sum()) - 1, 0.0)
    chance = float(special.chdtrc(freedom, divergence / unit)) if freedom else 1.0
    return float(max(divergence - freedom * unit, 0.0) ** 0.5), chance


@cache
def _freedom() -> "tuple[np.ndarray, np.ndarray]":
    """Expected rows of a cell, and what it adds to the degrees of freedom: the mean of its term of the divergence, in
    units of that of a cell with many rows. To be interpolated."""
    import numpy as np
    from scipy import special

    expected, rows = np.geomspace(1e-6, MOST_COUNTED, 200), np.arange(3 * MOST_COUNTED)[:, None]
    middle = (rows + expected) / 2
    terms = special.rel_entr(rows, middle) + special.rel_entr(expected, middle)
    poisson = np.exp(special.xlogy(rows, expected) - expected - special.gammaln(rows + 1))
    return expected, 4 * (poisson * terms).sum(axis=0)


def _cells(column: ColumnStatistics, cells: int) -> "np.ndarray":
    """Rows by bin or value, of all other values, and without a value."""
    import numpy as np

    counts = column.counts or (0,) * cells
    return np.array([*counts, column.rows - column.missing - sum(counts), column.missing], dtype="float64").clip(0)


def _shift(before: ColumnStatistics, now: ColumnStatistics) -> tuple[float, float]:
    """The shift of the mean, and how probable so large a one is."""
    from scipy import special

    if before.mean is None or now.mean is None or not before.deviation or now.deviation is None:
        return 0.0, 1.0
    difference = now.mean - before.mean
    error = (before.deviation**2 / _present(before) + now.deviation**2 / _present(now)) ** 0.5
    return difference / before.deviation, 2 * float(special.ndtr(-abs(difference) / error))


def _present(column: ColumnStatistics) -> int:
    return column.rows - column.missing


def _without(whole: ColumnStatistics, part: ColumnStatistics) -> ColumnStatistics:
    """The statistics of the rows of ``whole`` that are not in ``part``; the deviation is that of the whole."""
    rest = whole.model_copy(
        update={
            "rows": whole.rows - part.rows,
            "missing": whole.missing - part.missing,
            "counts": tuple(a - b for a, b in zip(whole.counts, part.counts, strict=True))
            if part.counts
            else whole.counts,
        }
    )
    if whole.mean is None or part.mean is None or not _present(rest):
        return rest
    total = whole.mean * _present(whole) - part.mean * _present(part)
    return rest.model_copy(update={"mean": total / _present(rest)})


def between_blocks(reference: Sequence[ColumnStatistics], blocks: TimeBlocks) -> list[list[Difference]]:
    """Return how far each block of the training rows is from the others, for each column."""
    by_name = [{column.name: column for column in block} for block in blocks.blocks]
    return [[difference(_without(c, block[c.name]), block[c.name]) for block in by_name] for c in reference]


def left_out(
    feature_set: FeatureSet, reference: Sequence[ColumnStatistics], blocks: TimeBlocks | None
) -> dict[str, str]:
    """Return the columns that differ between any two times, each with the reason: they would always drift."""
    import numpy as np

    parts = {feature.name: feature.source for feature in feature_set.features if feature.part}
    reasons = {c.name: "a time" for c in reference if c.kind == "timestamp"}
    reasons |= {name: f"a part of the time {source}" for name, source in parts.items()}
    others = [column for column in reference if column.name not in reasons]
    for column, differences in zip(others, between_blocks(others, blocks) if blocks else (), strict=bool(blocks)):
        if np.median([each.distance for each in differences]) > TELLS_TIME:
            reasons[column.name] = "it tells the time: its values differ between all blocks of the training rows"
    return reasons


def thresholds(reference: Sequence[ColumnStatistics], blocks: TimeBlocks | None) -> dict[str, Threshold]:
    """Return what each column may differ by. Without blocks, that is the floor.

    Args:
        reference: Statistics of the training rows, without the columns that are left out.
        blocks: The same by block of time.
    """
    import numpy as np

    if blocks is None or not reference:
        return {column.name: Threshold() for column in reference}
    between = between_blocks(reference, blocks)
    floors = {"distance": FLOOR, "missing": MISSING_FLOOR, "shift": SHIFT_FLOOR}
    limits = [
        _limits(np.array([[abs(getattr(each, kind)) for each in differences] for differences in between]), floor)
        for kind, floor in floors.items()
    ]
    return {c.name: Threshold(*of_column) for c, *of_column in zip(reference, *limits, strict=True)}


def _limits(differences: "np.ndarray", floor: float) -> list[float]:
    """Return the threshold of each column from how far each block is from the others (columns by blocks)."""
    import numpy as np
    from scipy import special

    columns, blocks = differences.shape
    most = special.stdtrit(blocks - 1, 1 - _level(columns)) * (1 + 1 / blocks) ** 0.5
    limits = differences.mean(axis=1) + most * differences.std(axis=1, ddof=1)
    return np.maximum(np.minimum(limits, MOST_TIMES_THE_LARGEST * differences.max(axis=1)), floor).tolist()


def _level(columns: int) -> float:
    """The level of chance of each test, of which there are three for each column."""
    return CHANCE / max(3 * columns, 1)


def compare(
    reference: Sequence[ColumnStatistics], current: Sequence[ColumnStatistics], limits: Mapping[str, Threshold]
) -> tuple[ColumnDrift, ...]:
    """Compare new rows with the training rows, column by column, the farthest past its threshold first.

    Args:
        reference: Statistics of the training rows, without the columns that are left out.
        current: Those of the new rows, with the same columns, edges and values.
        limits: By the name of the column.
    """
    level = _level(len(reference))

    def compared(before: ColumnStatistics, now: ColumnStatistics) -> tuple[float, ColumnDrift]:
        found, limit = difference(before, now), limits[before.name]
        past: dict[Past, tuple[float, float]] = {
            "distance": (found.distance / limit.distance, found.distance_chance),
            "missing": (found.missing / limit.missing, found.missing_chance),
            "shift": (abs(found.shift) / limit.shift, found.shift_chance),
        }
        drifted: list[Past] = [kind for kind, (share, chance) in past.items() if share > 1 and chance < level]
        result = ColumnDrift(
            before=before,
            now=now,
            distance=found.distance,
            threshold=limit.distance,
            missing=found.missing,
            missing_threshold=limit.missing,
            shift=found.shift if before.mean is not None and now.mean is not None else None,
            shift_threshold=limit.shift,
            drifted=max(drifted, key=lambda kind: past[kind][0], default=None),
        )
        return max(share for share, _ in past.values()), result

    pairs = [compared(before, now) for before, now in zip(reference, current, strict=True)]
    return tuple(result for _, result in sorted(pairs, key=lambda pair: (pair[1].drifted is None, -pair[0])))
