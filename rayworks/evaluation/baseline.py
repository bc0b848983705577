"""The baseline of an evaluation: predictions that know the training rows only."""

from typing import TYPE_CHECKING

from rayworks.records import Dataset

if TYPE_CHECKING:
    import numpy as np


def predictions(dataset: Dataset, rows: int) -> "np.ndarray":
    """Return predictions that ignore the row: the mean, or the class frequencies, of the training rows."""
    import numpy as np

    target = dataset.target
    if target.problem != "regression":
        return np.tile(_class_shares(dataset), (rows, 1))
    of_target = next(s for s in dataset.split("train").statistics if s.name == target.name)
    return np.full(rows, of_target.mean, dtype="float64")


def _class_shares(dataset: Dataset) -> "np.ndarray":
    """Return the share of each class in the training rows, none of them zero."""
    import numpy as np

    counts = np.array([dataset.class_counts.get(str(label), 0) for label in dataset.target.classes], dtype="float64")
    return (counts + 1) / (counts + 1).sum()  # Laplace's rule: a class without a training row is still possible
