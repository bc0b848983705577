"""The predictions of a model for encoded rows, checked: what a training loop returned may be the user's."""

from typing import TYPE_CHECKING, Any, cast

from rayworks.errors import TrainingError, named
from rayworks.models.contract import Model

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def predictions(model: Model, features: "pd.DataFrame", *, classes: int) -> "np.ndarray":
    """Return amounts (rows), or probabilities (rows by classes).

    Args:
        classes: The number of classes; 0 for a regression.

    Raises:
        TrainingError: The model failed, or returned something other than a prediction for each row.
    """
    import numpy as np

    rows = len(features)
    predict = cast(Any, model).predict_proba if classes else model.predict
    try:
        scores = np.asarray(predict(features), dtype="float64")
    except Exception as error:  # the model may be the user's: it may raise anything
        raise TrainingError(
            "the model failed to predict",
            where=type(model).__name__,
            detail=named(error),
            remedy="Fix the training loop that creates it",
        ) from error
    if scores.size != rows * max(classes, 1):
        raise TrainingError(
            f"the model must predict {f'{classes} probabilities' if classes else 'a number'} for each row",
            where=type(model).__name__,
            detail=f"{rows} rows gave an array of shape {scores.shape}",
            remedy="Fix the training loop that creates it",
        )
    return scores.reshape(rows, classes) if classes else scores.reshape(-1)


def finite(scores: "np.ndarray") -> "np.ndarray":
    """Return predictions that can be measured.

    Raises:
        TrainingError: Some are NaN or infinite.
    """
    import numpy as np

    if not np.isfinite(scores).all():
        raise TrainingError(
            "the model's predictions are not finite numbers",
            detail=f"{(~np.isfinite(scores)).sum():,} NaN or infinite values",
            remedy="Fix the training loop or its hyperparameters: the learning rate may be too high",
        )
    return scores
