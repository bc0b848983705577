"""The contracts of models and training loops: what a loop receives, and what it returns.

Everything here is a protocol. Your own classes need not import or inherit anything.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from rayworks.records import Feature, SplitName, Target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@runtime_checkable
class Model(Protocol):
    """What a training loop returns: any object with scikit-learn's ``predict``.

    For classification it also has ``predict_proba(features)``, which returns probabilities: one row for each row of
    ``features``, one column for each class number.

    A model that implements nothing else is stored by cloudpickle, and loading it runs code. See :class:`StoredModel`
    for a model with a file format of its own, and :class:`ExplainedModel` for one that knows what its features weigh.
    """

    def predict(self, features: "pd.DataFrame") -> "np.ndarray":
        """Return one number for each row: the amount, or the class number (0..k-1).

        Args:
            features: One column for each feature: float64 with NaN, or pandas ``Categorical`` with the feature's
                categories.
        """
        ...


@runtime_checkable
class StoredModel(Model, Protocol):
    """A model that writes and reads its own files. Optional.

    rayworks uses the two methods if ``load`` is a class method and the class can be imported by its name. The stored
    model names the class by its import path (``my_models:Forest``), so the module must be importable under that path
    wherever the model is loaded, now and later: do not move or rename the class while stored models refer to it.
    """

    def save(self, folder: Path) -> None:
        """Write everything that ``load`` needs into ``folder``, which exists and is empty."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the model that ``save`` wrote into ``folder``."""
        ...


@runtime_checkable
class ExplainedModel(Protocol):
    """A model that knows how important its features are. Optional, as is scikit-learn's ``feature_importances_``."""

    def importance(self) -> dict[str, float]:
        """Return the weight of each feature that the model uses, by name. Larger is more important; units are free."""
        ...


class TrainContext(Protocol):
    """What a training loop receives on each of its workers. It is the same in training and in a trial of tuning.

    A training runs the loop several times, unless ``train.refit`` is off: on the training rows, where these are split
    by time again on an earlier part of them, and last on training and validation rows together, with the number of
    rounds that were found.
    """

    hyperparameters: dict[str, Any]
    target: Target
    features: tuple[Feature, ...]
    rounds: int
    """The most rounds to train."""
    early_stopping_rounds: int
    """Rounds without improvement after which to stop."""
    rank: int
    """Number of this worker, from 0."""
    world_size: int
    """Number of workers."""
    threads: int
    """CPUs that this worker may use."""
    metric: str
    """Name of the metric to report, ``rmse`` or ``log_loss``. ``rayworks.metrics`` has its direction."""

    def frame(self, split: SplitName) -> "tuple[pd.DataFrame, np.ndarray]":
        """Return this worker's shard of a split: features, and the target as numbers (class numbers for classes)."""
        ...

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        """Yield the same shard, at most ``rows`` rows at a time, for loops that need not hold all of them."""
        ...

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        """Report the metric after ``round`` (from 1).

        Call it after every round. It is cheap: it decides itself when to show progress and to write a checkpoint.

        Args:
            round: The round that has ended.
            validation: The metric on the validation split.
            train: The metric on the training rows, if it is known.
            save: Writes everything that ``restore`` needs into a folder. It is called on rank 0 only, and only when a
                checkpoint is due.
        """
        ...

    def restore(self) -> Path | None:
        """Return the folder of the last checkpoint if training was restarted, else None.

        Rounds continue from the one that the checkpoint holds.
        """
        ...
