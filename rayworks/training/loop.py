"""Running a training loop, whoever wrote it: what it is given, and what its failures say."""

import inspect
import math
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayworks import import_path
from rayworks.errors import RayworksError, TrainingError
from rayworks.models.contract import Model
from rayworks.records import Dataset, Problem, SplitName

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

METRIC: dict[Problem, str] = {"regression": "rmse", "binary": "log_loss", "multiclass": "log_loss"}


class LoopContext:
    """A ``TrainContext`` of which only ``batches``, ``report`` and ``restore`` differ between training and tuning."""

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: dict[str, Any],
        *,
        rounds: int,
        patience: int,
        threads: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.hyperparameters = hyperparameters
        self.target = dataset.target
        self.features = dataset.feature_set.features
        self.rounds, self.early_stopping_rounds, self.threads = rounds, patience, threads
        self.rank, self.world_size = rank, world_size
        self.metric = METRIC[dataset.target.problem]

    def frame(self, split: SplitName) -> "tuple[pd.DataFrame, np.ndarray]":
        """This worker's rows of a split, all at once."""
        import numpy as np
        import pandas as pd

        features, labels = zip(*self.batches(split), strict=True)
        return pd.concat(features, ignore_index=True), np.concatenate(labels)

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        raise NotImplementedError

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        raise NotImplementedError

    def restore(self) -> Path | None:
        return None


def run(path: str, context: LoopContext) -> Model:
    """Load the loop at ``path``, run it, and check what it returns.

    Raises:
        TrainingError: The loop failed, or returned what cannot predict.
        RayworksError: As the loop raised it.
    """
    function = import_path.load(path)
    try:
        model = function(context)
    except RayworksError:
        raise
    except Exception as error:  # the loop is the user's: whatever it raises is the answer
        if type(error).__module__.startswith("ray."):
            raise  # how Ray stops a trial, and the like
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise TrainingError(
            "the training loop failed",
            where=path,
            detail=f"{type(error).__name__}: {error}, at {frame.filename}:{frame.lineno}",
            remedy="Mend it, and run again",
        ) from error
    needed = "predict" if context.target.problem == "regression" else "predict_proba"
    if not callable(getattr(model, needed, None)):
        raise TrainingError(
            f"the training loop returned no model with a {needed} method",
            where=path,
            detail=f"a {type(model).__name__}",
            remedy="Return an object with scikit-learn's methods",
        )
    return cast(Model, model)


def check_finite(round: int, validation: float) -> float:
    """``validation`` as a plain float.

    Raises:
        TrainingError: It is none: training diverged.
    """
    if not math.isfinite(validation):
        raise TrainingError(
            "the validation metric is not a number",
            where=f"round {round}",
            detail=f"it is {validation}",
            remedy="Lower the learning rate, or look for extreme values in the target",
        )
    return float(validation)


def default_hyperparameters(path: str) -> dict[str, Any]:
    """What the loop at ``path`` takes where a hyperparameter is not given: ``DEFAULTS`` of its module, if it tells."""
    return _of_module(path, "DEFAULTS")


def search_space(path: str) -> dict[str, Any]:
    """What is worth a search of the loop at ``path`` where nobody says so: ``SPACE`` of its module, if it tells."""
    return _of_module(path, "SPACE")


def _of_module(path: str, name: str) -> dict[str, Any]:
    return dict(getattr(inspect.getmodule(import_path.load(path)), name, {}))
