"""How good predictions are. Pure; by scikit-learn (https://scikit-learn.org/stable/modules/model_evaluation.html)."""

from typing import Any, cast

import numpy as np

from rayworks.errors import ParameterError
from rayworks.records import Dataset, Problem, Target

DEFAULT: dict[Problem, str] = {"regression": "rmse", "binary": "log_loss", "multiclass": "log_loss"}
DECIDING: dict[Problem, tuple[str, ...]] = {
    "regression": ("rmse", "mae"), "binary": ("log_loss", "error_rate"), "multiclass": ("log_loss", "error_rate"),
}  # fmt: skip


def metric_for(problem: Problem, metric: str) -> str:
    """The metric that decides, lower is better; ``auto`` is the default for the problem.

    Raises:
        ParameterError: The metric does not fit the problem.
    """
    if metric == "auto":
        return DEFAULT[problem]
    if metric not in DECIDING[problem]:
        raise ParameterError(
            f"{metric} does not measure a {problem} model", where="evaluate.metric",
            remedy=f"Choose one of {', '.join(DECIDING[problem])}",
        )  # fmt: skip
    return metric


def compute(target: Target, actual: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """All metrics that are defined on these rows.

    Args:
        actual: Amounts, or class numbers.
        predicted: Amounts (rows), or probabilities (rows by classes).
    """
    if len(actual) == 0:
        return {}
    values = _regression(actual, predicted) if target.problem == "regression" else _classification(target, actual, predicted)
    return {name: float(value) for name, value in values.items()}


def _regression(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    from sklearn import metrics

    found = {
        "rmse": metrics.root_mean_squared_error(actual, predicted),
        "mae": metrics.mean_absolute_error(actual, predicted),
        "median_absolute_error": metrics.median_absolute_error(actual, predicted),
    }
    if len(actual) > 1 and actual.std() > 0:
        found["r2"] = metrics.r2_score(actual, predicted)
    return cast(dict[str, Any], found)


def _classification(target: Target, actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    from sklearn import metrics

    chosen, classes = predicted.argmax(axis=1), list(range(len(target.classes)))
    accuracy = float((chosen == actual).mean())
    found: dict[str, Any] = {
        "log_loss": metrics.log_loss(actual, predicted, labels=classes), "error_rate": 1 - accuracy, "accuracy": accuracy,
    }  # fmt: skip
    if target.problem == "binary":
        found["brier"] = np.square(predicted[:, 1] - actual).mean()
        found["f1"] = metrics.f1_score(actual, chosen, zero_division=cast(Any, 0))
        if len(np.unique(actual)) == 2:
            found["roc_auc"] = metrics.roc_auc_score(actual, predicted[:, 1])
    else:
        found["macro_f1"] = metrics.f1_score(actual, chosen, average="macro", zero_division=cast(Any, 0))
    return found


def baseline(dataset: Dataset, rows: int) -> np.ndarray:
    """What one would say without looking at a row: the mean, or the class frequencies, of the training rows."""
    target, train = dataset.target, dataset.split("train")
    of_target = next(statistics for statistics in train.statistics if statistics.name == target.name)
    if target.problem == "regression":
        return np.full(rows, of_target.mean)
    return np.tile(class_shares(dataset), (rows, 1))


def class_shares(dataset: Dataset) -> np.ndarray:
    """The share of each class among the training rows, none of them zero."""
    counts = np.array([dataset.class_counts.get(str(label), 0) for label in dataset.target.classes], dtype="float64")
    return (counts + 1) / (counts + 1).sum()  # Laplace's rule: a class that training never saw is still possible
