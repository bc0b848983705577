"""What a trained model is, and what a training loop is given. The contract between training, serving and the user's own loops."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rayworks.records import Feature, SplitName, Target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@runtime_checkable
class Model(Protocol):
    """What a loop returns: anything with scikit-learn's ``predict``, and ``predict_proba`` for classification.

    Both take a DataFrame with one column per feature: float64 with NaN, or pandas ``Categorical`` with the
    feature's categories.
    """

    def predict(self, features: "pd.DataFrame") -> "np.ndarray":
        """One number a row: the value, or the class number (0..k-1)."""
        ...


class TrainContext(Protocol):
    """What a training loop is given, on each of its workers. The same for training and for a trial of tuning."""

    hyperparameters: dict[str, Any]
    target: Target
    features: tuple[Feature, ...]
    rounds: int
    early_stopping_rounds: int
    rank: int
    world_size: int
    threads: int
    """CPUs that this worker may use."""
    metric: str
    """Name of the metric to report, ``rmse`` or ``log_loss``. ``rayworks.metrics`` has its direction."""

    def frame(self, split: SplitName) -> "tuple[pd.DataFrame, np.ndarray]":
        """This worker's share of a split: features, and the target as numbers (class numbers for classification)."""
        ...

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        """The same, at most ``rows`` at a time, for loops that need not hold all."""
        ...

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        """Tell how good the model is after ``round`` (from 1). Call it every round: it is cheap, and decides by itself
        when to show, to check point and to stop a hopeless trial. ``save`` writes all that ``restore`` needs into a folder;
        it is called on rank 0, only when a checkpoint is due."""
        ...

    def restore(self) -> Path | None:
        """The folder of the last checkpoint if this is a restart, else none. Rounds go on from what it holds."""
        ...
