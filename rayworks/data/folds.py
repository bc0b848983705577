"""Folds of a dataset's training and validation rows, which compare hyperparameters as the dataset's split would. Pure.

By time, each fold learns from the rows before its validation rows (rolling origins, as scikit-learn's
``TimeSeriesSplit``); by key, rows of one key stay together (``GroupKFold``); else at random (``RepeatedKFold``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rayworks.records import SplitMethod

if TYPE_CHECKING:
    import numpy as np

ORIGINS = 3  # folds by time
FEW, MANY = 1000, 10_000  # rows below which folds are repeated, and from which two of them are enough
BLOCKS, BLOCK_ROWS = 5, 200  # the most blocks of a fold, and the fewest rows of each


@dataclass(frozen=True)
class Fold:
    """Row numbers: of those to train on, and of those to validate, in blocks that are measured by themselves."""

    train: "np.ndarray"
    validation: "tuple[np.ndarray, ...]"


def of(method: SplitMethod, values: "np.ndarray | None", rows: int, validation: float) -> tuple[Fold, ...]:
    """Return the folds. The same rows have the same folds.

    Args:
        method: How the dataset was split.
        values: The time or the key of each row. None for a random split.
        rows: The number of rows.
        validation: The share of the rows that a fold validates.
    """
    import numpy as np

    if method == "time":
        return tuple(_rolling(np.argsort(cast("np.ndarray", values), kind="stable"), validation))
    parts = max(2, round(1 / validation))
    random = np.random.default_rng(0)
    repeats, used = (2, parts) if rows < FEW else (1, min(parts, 3 if rows < MANY else 2))
    return tuple(fold for _ in range(repeats) for fold in _at_random(values, rows, parts, used, random))


def _rolling(order: "np.ndarray", share: float) -> Iterator[Fold]:
    """Yield folds whose validation rows are the newest, then those before, then those before these."""
    rows = len(order)
    size = max(1, int(rows * min(share, 0.8 / ORIGINS)))
    for newer in range(ORIGINS):
        last = rows - newer * size
        first = last - size
        if first > 0:
            yield Fold(order[:first], _blocks(order[first:last]))


def _at_random(
    keys: "np.ndarray | None", rows: int, parts: int, used: int, random: "np.random.Generator"
) -> Iterator[Fold]:
    import numpy as np
    import pandas as pd

    groups, count = (np.arange(rows), rows) if keys is None else (pd.factorize(keys, use_na_sentinel=False)[0], 0)
    count = count or int(groups.max(initial=-1)) + 1
    part_of_group = random.permutation(count) % parts
    part = part_of_group[groups]
    for number in range(used):
        inside = part == number
        if inside.any() and not inside.all():
            yield Fold(np.flatnonzero(~inside), _blocks(random.permutation(np.flatnonzero(inside))))


def _blocks(rows: "np.ndarray") -> "tuple[np.ndarray, ...]":
    import numpy as np

    return tuple(np.array_split(rows, max(1, min(BLOCKS, len(rows) // BLOCK_ROWS))))
