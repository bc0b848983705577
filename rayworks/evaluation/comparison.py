"""Compare two models on the same rows: by how much one is better, and how much of that may be chance. Pure.

The interval is that of the delete-a-group jackknife (Kott, "The delete-a-group jackknife", Journal of Official
Statistics, 2001): the rows are divided into groups, the improvement is computed without each of them in turn, and its
spread gives the standard error. It needs no formula for a metric, and groups of neighbouring rows carry over what
neighbours have in common.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rayworks.metrics import Metric
from rayworks.records import Interval, SplitMethod

if TYPE_CHECKING:
    import numpy as np

GROUPS = 30
"""Groups of rows. More of them hardly narrow the interval: Student's t for 29 degrees of freedom is near normal."""


def groups_of(split_method: SplitMethod, values: "np.ndarray | None", rows: int) -> "np.ndarray":
    """Return groups of rows that are independent of each other, as far as the split says: rows of one time, or of one
    key, are not.

    Args:
        split_method: How the rows are split.
        values: The time or key of each row; None where they are split at random.
        rows: How many there are.
    """
    if values is None:
        return groups_at_random(rows)
    return groups_in_order(values) if split_method == "time" else groups_by_key(values)


def groups_in_order(order: "np.ndarray") -> "np.ndarray":
    """Return the group of each row: neighbours in ``order``, such as times, are in one group, and so are all rows of
    one time: where there are fewer times than ``GROUPS``, there is one group for each."""
    import numpy as np

    _, time, rows = np.unique(order, return_inverse=True, return_counts=True)
    rows_before = rows.cumsum() - rows
    return (rows_before * GROUPS // max(len(order), 1))[time]


def groups_by_key(keys: "np.ndarray") -> "np.ndarray":
    """Return the group of each row: rows with the same key are in one group."""
    import pandas as pd

    return pd.factorize(keys, use_na_sentinel=False)[0] % GROUPS


def groups_at_random(rows: int) -> "np.ndarray":
    """Return the group of each of ``rows`` independent rows, whatever their order."""
    import numpy as np

    return np.random.default_rng(0).permutation(rows) % min(GROUPS, max(rows, 1))


def improvements(
    metric: Metric, actual: "np.ndarray", candidate: "np.ndarray", rival: "np.ndarray", groups: "np.ndarray"
) -> "np.ndarray":
    """Return the improvement of the candidate over the rival without each of the groups in turn, in the metric's units.

    Args:
        actual: Values, or class numbers.
        candidate: Predicted values (rows), or probabilities (rows by classes).
        rival: The same of the other model.
        groups: The group of each row.
    """
    values = [_without_each(metric, actual, predicted, groups) for predicted in (candidate, rival)]
    return cast(Any, metric).improvement(*values)


def _without_each(metric: Metric, actual: "np.ndarray", predicted: "np.ndarray", groups: "np.ndarray") -> "np.ndarray":
    """Return the metric without each of the groups in turn; NaN where it is undefined."""
    import numpy as np

    if metric.row_losses is None:
        numbers = np.unique(groups)
        values = [metric.measure(actual[groups != number], predicted[groups != number]) for number in numbers]
        return np.array(values, dtype="float64")  # None becomes NaN
    _, number = np.unique(groups, return_inverse=True)
    losses = metric.row_losses(actual, predicted)
    rows = len(actual) - np.bincount(number)
    return metric.of_mean_loss((losses.sum() - np.bincount(number, weights=losses)) / rows)


def interval(
    metric: Metric,
    actual: "np.ndarray",
    candidate: "np.ndarray",
    rival: "np.ndarray",
    groups: "np.ndarray",
    *,
    confidence: float,
) -> Interval | None:
    """Return the interval of the improvement of the candidate over the rival; see :func:`improvements`.

    Args:
        confidence: Of the two-sided interval, between 0 and 1.

    Returns:
        None where it cannot be known: there are fewer than two groups, or the metric is undefined without one.
    """
    import numpy as np
    from scipy import stats

    if len(np.unique(groups)) < 2:
        return None
    ours, theirs = (metric.measure(actual, predicted) for predicted in (candidate, rival))
    whole = math.nan if ours is None or theirs is None else metric.improvement(ours, theirs)
    without = improvements(metric, actual, candidate, rival, groups)
    if not np.isfinite([whole, *without]).all():
        return None
    width = _standard_error(without) * float(stats.t.ppf((1 + confidence) / 2, len(without) - 1))
    return Interval(low=whole - width, high=whole + width, confidence=confidence)


def _standard_error(without: "np.ndarray") -> float:
    """The jackknife's standard error, from the values without each of the groups."""
    count = len(without)
    return float(((count - 1) / count * ((without - without.mean()) ** 2).sum()) ** 0.5)


@dataclass(frozen=True)
class Scored:
    """The predictions of one model for some rows, as :func:`improvements` takes them."""

    actual: "np.ndarray"
    predicted: "np.ndarray"
    groups: "np.ndarray"


def change(metric: Metric, before: Scored, now: Scored, *, confidence: float) -> Interval | None:
    """Return the interval of the improvement of one model from some rows to others; negative where it became worse.

    The rows are others, so the errors of both add up: Student's t has the fewer degrees of freedom of both.

    Returns:
        None where it cannot be known, as of :func:`interval`.
    """
    import numpy as np
    from scipy import stats

    freedom = min(len(np.unique(rows.groups)) for rows in (now, before)) - 1
    if freedom < 1:
        return None
    values = [metric.measure(rows.actual, rows.predicted) for rows in (now, before)]
    without = [_without_each(metric, rows.actual, rows.predicted, rows.groups) for rows in (now, before)]
    if not np.isfinite(np.array([*values, *np.concatenate(without)], dtype="float64")).all():
        return None
    whole = cast(Any, metric).improvement(*values)
    error = sum(_standard_error(each) ** 2 for each in without) ** 0.5
    width = error * float(stats.t.ppf((1 + confidence) / 2, freedom))
    return Interval(low=float(whole - width), high=float(whole + width), confidence=confidence)
