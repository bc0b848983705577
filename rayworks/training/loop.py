"""Run a training loop, the built-in one or the user's: what its module declares, its context, and its failures."""

import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from rayworks import code_digest, import_path, reuse
from rayworks.errors import ParameterError, RayworksError, TrainingError, named
from rayworks.models import stored
from rayworks.models.contract import Model
from rayworks.params import SearchDimension
from rayworks.records import Dataset, SplitName
from rayworks.training import _private
from rayworks.training.process_group import BACKENDS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ValueT = TypeVar("ValueT")
SPACE: TypeAdapter[dict[str, SearchDimension]] = TypeAdapter(dict[str, SearchDimension])


@dataclass(frozen=True)
class Declarations:
    """What the module of a training loop declares beside the loop. Everything is optional."""

    space: Mapping[str, SearchDimension]
    """``SPACE``: the hyperparameters that tuning searches unless the options name others."""
    defaults: Mapping[str, Any]
    """``DEFAULTS``: the hyperparameters that the loop uses where none are passed."""
    backend: str | None
    """``BACKEND``: the process group that connects the workers, ``"xgboost"`` or ``"torch"``."""
    aliases: Mapping[str, str]
    """``ALIASES``: other names of hyperparameters, each with the name that the space and the defaults have."""


def code_fingerprint(path: str) -> str:
    """Return text that changes with the code of the loop at ``path``, and with rayworks' code that runs it."""
    return reuse.digest(code_digest.of_library("data", "models", "training"), import_path.fingerprint(path))


def declarations(path: str) -> Declarations:
    """Return what the module that defines the loop at ``path`` declares.

    Raises:
        ParameterError: The loop does not exist, or a declaration is invalid.
    """
    function: Any = import_path.load(path)
    module = inspect.getmodule(getattr(function, "func", function))  # func: of a functools.partial
    backend = getattr(module, "BACKEND", None)
    if backend is not None and backend not in BACKENDS:
        raise ParameterError(
            "there is no such process group",
            where=f"BACKEND of {path}",
            detail=repr(backend),
            remedy=f"Set it to one of {', '.join(BACKENDS)}, or remove it",
        )
    try:
        space = SPACE.validate_python(getattr(module, "SPACE", {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise ParameterError(
            "the search space cannot be used",
            where=f"SPACE of {path}, {'.'.join(str(part) for part in first['loc'])}",
            detail=first["msg"],
            remedy="Correct it",
        ) from error
    defaults, aliases = (dict(getattr(module, name, {})) for name in ("DEFAULTS", "ALIASES"))
    return Declarations(space=space, defaults=defaults, backend=backend, aliases=aliases)


def without_aliases(path: str, hyperparameters: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Return hyperparameters by the names that the loop at ``path`` declares, not by other names of the same.

    Raises:
        ParameterError: The loop does not exist, or a hyperparameter is there by two names.
    """
    aliases, renamed = declarations(path).aliases, dict[str, ValueT]()
    for given, value in hyperparameters.items():
        name = aliases.get(given, given)
        if name in renamed:
            names = ", ".join(each for each in hyperparameters if aliases.get(each, each) == name)
            raise ParameterError("two names are of the same hyperparameter", where=names, remedy="Use one of them")
        renamed[name] = value
    return renamed


class LoopContext:
    """A ``TrainContext`` without ``batches`` and ``report``, which differ between training and tuning."""

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: dict[str, Any],
        *,
        metric: str,
        rounds: int,
        patience: int,
        threads: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.hyperparameters = hyperparameters
        self.target = dataset.target
        self.features = dataset.feature_set.features
        self.metric = metric
        self.rounds, self.early_stopping_rounds, self.threads = rounds, patience, threads
        self.rank, self.world_size = rank, world_size

    def frame(self, split: SplitName) -> "tuple[pd.DataFrame, np.ndarray]":
        """Return this worker's shard of a split, all rows at once."""
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
        TrainingError: The loop failed.
        ParameterError: It returned an object that cannot predict.
        TransferError: It returned a model that cannot be stored.
        RayworksError: As raised by the loop.
    """
    function = import_path.load(path)
    try:
        model = function(context)
    except RayworksError:
        raise
    except Exception as error:  # user code may raise anything
        if _private.is_raised_by_ray(error):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise TrainingError(
            "the training loop failed",
            where=path,
            detail=f"{named(error)}, at {frame.filename}:{frame.lineno}",
            remedy="Fix it, and run again",
        ) from error
    method = "predict" if context.target.problem == "regression" else "predict_proba"
    if not callable(getattr(model, method, None)):
        raise ParameterError(
            f"the training loop returned no model with a {method} method",
            where=path,
            detail=f"a {type(model).__name__}",
            remedy="Return an object with scikit-learn's methods",
        )
    stored.check_storable(cast(Model, model), loop=path)  # now, not after a search or a second pass
    return cast(Model, model)


def check_finite(round: int, validation: float) -> float:
    """Return ``validation`` as a plain float.

    Raises:
        TrainingError: It is not finite: training diverged.
    """
    if not math.isfinite(validation):
        raise TrainingError(
            "the validation metric is not a number",
            where=f"round {round}",
            detail=f"it is {validation}",
            remedy="Lower the learning rate, or check the target for extreme values",
        )
    return float(validation)


def no_report(path: str) -> TrainingError:
    """Return the error of a loop that never called ``context.report``."""
    return TrainingError(
        "the training loop reported nothing", where=path, remedy="Call context.report after each round"
    )
