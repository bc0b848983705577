"""How good predictions are. Pure; by scikit-learn (https://scikit-learn.org/stable/modules/model_evaluation.html)."""

from typing import Any

import numpy as np

from rayworks.errors import ParameterError
from rayworks.records import Dataset, Problem, Target

DEFAULT: dict[Problem, str] = {"regression": "rmse", "binary": "log_loss", "multiclass": "log_loss"}
DECIDING: dict[Problem, tuple[str, ...]] = {
    "regression": ("rmse", "mae"),
    "binary": ("log_loss", "error_rate"),
    "multiclass": ("log_loss", "error_rate"),
}


def metric_for(problem: Problem, metric: str) -> str:
    """The metric that decides, lower is better; ``auto`` is the default for the problem.

    Raises:
        ParameterError: The metric does not fit the problem.
    """
    if metric == "auto":
        return DEFAULT[problem]
    if metric not in DECIDING[problem]:
        raise ParameterError(
            f"{metric} does not measure a {problem} model",
            where="evaluate.metric",
            remedy=f"Choose one of {', '.join(DECIDING[problem])}, or auto",
        )
    return metric


def compute(target: Target, actual: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """All metrics that are defined on these rows; none without rows, no ROC AUC where there is one class only.

    Args:
        actual: Amounts, or class numbers.
        predicted: Amounts (rows), or probabilities (rows by classes). Finite.
    """
    if len(actual) == 0:
        return {}
    measure = _regression if target.problem == "regression" else _binary if target.problem == "binary" else _multiclass
    return {name: float(value) for name, value in measure(actual, predicted).items()}


def _sklearn() -> Any:
    from sklearn import metrics  # pyright: ignore[reportMissingTypeStubs]

    return metrics


def _regression(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    metrics = _sklearn()
    found = {
        "rmse": metrics.root_mean_squared_error(actual, predicted),
        "mae": metrics.mean_absolute_error(actual, predicted),
        "median_absolute_error": metrics.median_absolute_error(actual, predicted),
    }
    varied = len(actual) > 1 and actual.std() > 0
    return found | ({"r2": metrics.r2_score(actual, predicted)} if varied else {})


def _multiclass(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    macro_f1 = _sklearn().f1_score(actual, predicted.argmax(axis=1), average="macro", zero_division=0)
    return _of_classes(actual, predicted) | {"macro_f1": macro_f1}


def _binary(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    metrics, probability = _sklearn(), predicted[:, 1]
    found = _of_classes(actual, predicted) | {
        "brier": np.square(probability - actual).mean(),
        "f1": metrics.f1_score(actual, predicted.argmax(axis=1), zero_division=0),
    }
    both = len(np.unique(actual)) == 2
    return found | ({"roc_auc": metrics.roc_auc_score(actual, probability)} if both else {})


def _of_classes(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    accuracy = (predicted.argmax(axis=1) == actual).mean()
    shares = predicted / predicted.sum(axis=1, keepdims=True)  # what was rounded to 32 bits sums up to nearly one only
    log_loss = _sklearn().log_loss(actual, shares, labels=list(range(predicted.shape[1])))
    return {"log_loss": log_loss, "error_rate": 1 - accuracy, "accuracy": accuracy}


def baseline(dataset: Dataset, rows: int) -> np.ndarray:
    """What one would say without looking at a row: the mean, or the class frequencies, of the training rows."""
    target = dataset.target
    if target.problem != "regression":
        return np.tile(class_shares(dataset), (rows, 1))
    of_target = next(s for s in dataset.split("train").statistics if s.name == target.name)
    return np.full(rows, of_target.mean, dtype="float64")


def class_shares(dataset: Dataset) -> np.ndarray:
    """The share of each class among the training rows, none of them zero."""
    counts = np.array([dataset.class_counts.get(str(label), 0) for label in dataset.target.classes], dtype="float64")
    return (counts + 1) / (counts + 1).sum()  # Laplace's rule: a class that training never saw is still possible
