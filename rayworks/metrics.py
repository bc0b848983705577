"""The metrics of models, each defined once: its name, label, direction, problems, and how it is computed.

Values are computed by scikit-learn (https://scikit-learn.org/stable/modules/model_evaluation.html). Pure.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rayworks.errors import ParameterError
from rayworks.records import Problem, Target

if TYPE_CHECKING:
    import numpy as np

ItemT = TypeVar("ItemT")
REGRESSION: tuple[Problem, ...] = ("regression",)
BINARY: tuple[Problem, ...] = ("binary",)
MULTICLASS: tuple[Problem, ...] = ("multiclass",)
CLASSIFICATION = BINARY + MULTICLASS


@dataclass(frozen=True)
class Metric:
    """A measure of the quality of predictions.

    Args:
        name: Its key in records, parameters and MLflow.
        label: Its name in reports.
        problems: The kinds of problem that it applies to.
        measure: Takes actual values (or class numbers) and predicted values (or probabilities, rows by classes).
            Returns None where the metric is not defined on these rows.
        higher_is_better: The direction.
        may_decide: Whether a promotion may depend on it: whether relative differences of its values mean something.
        row_losses: Takes the same as ``measure`` and returns a loss for each row, if the metric is that of their mean.
        of_mean_loss: Returns the metric of the mean loss.
    """

    name: str
    label: str
    problems: tuple[Problem, ...]
    measure: "Callable[[np.ndarray, np.ndarray], float | None]"
    higher_is_better: bool = False
    may_decide: bool = True
    row_losses: "Callable[[np.ndarray, np.ndarray], np.ndarray] | None" = None
    of_mean_loss: Callable[[Any], Any] = lambda loss: loss

    @property
    def worst(self) -> float:
        """The value that every other value is better than."""
        return -math.inf if self.higher_is_better else math.inf

    def is_better(self, value: float, other: float) -> bool:
        """Return whether ``value`` is better than ``other``; never for NaN."""
        return value > other if self.higher_is_better else value < other

    def best(self, items: Iterable[ItemT], key: Callable[[ItemT], float]) -> ItemT:
        """Return the item with the best value, the first of equal ones. There must be one."""
        return (max if self.higher_is_better else min)(items, key=key)

    def improvement(self, candidate: float, rival: float) -> float:
        """Return by how much the candidate is better than the rival, in the metric's units; negative if it is worse."""
        return candidate - rival if self.higher_is_better else rival - candidate

    def gain(self, candidate: float, rival: float) -> float:
        """Return the relative improvement of the candidate over the rival.

        Negative if it is worse. Infinite against a rival of 0, unless the candidate is 0 too. NaN if one of them is not
        finite.
        """
        if not (math.isfinite(candidate) and math.isfinite(rival)):
            return math.nan
        difference = self.improvement(candidate, rival)
        if rival == 0:
            return math.copysign(math.inf, difference) if difference else 0.0
        return difference / abs(rival)


def _sklearn() -> Any:
    from sklearn import metrics

    return metrics


def _r2(actual: "np.ndarray", predicted: "np.ndarray") -> float | None:
    varied = len(actual) > 1 and actual.std() > 0
    return _sklearn().r2_score(actual, predicted) if varied else None


def _log_loss(actual: "np.ndarray", predicted: "np.ndarray") -> float:
    shares = predicted / predicted.sum(axis=1, keepdims=True)  # rounded to 32 bits, they only nearly sum up to one
    return _sklearn().log_loss(actual, shares, labels=list(range(predicted.shape[1])))


def _row_log_losses(actual: "np.ndarray", predicted: "np.ndarray") -> "np.ndarray":
    """The terms of scikit-learn's ``log_loss``, which clips by the machine's precision."""
    import numpy as np

    shares = predicted[np.arange(len(actual)), actual] / predicted.sum(axis=1)
    smallest = np.finfo(predicted.dtype).eps
    return -np.log(np.clip(shares, smallest, 1 - smallest))


def _is_wrong(actual: "np.ndarray", predicted: "np.ndarray") -> "np.ndarray":
    return (predicted.argmax(axis=1) != actual).astype("float64")


def _accuracy(actual: "np.ndarray", predicted: "np.ndarray") -> float:
    return (predicted.argmax(axis=1) == actual).mean()


def _roc_auc(actual: "np.ndarray", predicted: "np.ndarray") -> float | None:
    return _sklearn().roc_auc_score(actual, predicted[:, 1]) if actual.min() < actual.max() else None


_ALL = (
    Metric(
        "rmse",
        "RMSE",
        REGRESSION,
        lambda a, p: _sklearn().root_mean_squared_error(a, p),
        row_losses=lambda a, p: (a - p) ** 2,
        of_mean_loss=lambda loss: loss**0.5,
    ),
    Metric(
        "mae",
        "MAE",
        REGRESSION,
        lambda a, p: _sklearn().mean_absolute_error(a, p),
        row_losses=lambda a, p: abs(a - p),
    ),
    Metric(
        "median_absolute_error",
        "median absolute error",
        REGRESSION,
        lambda a, p: _sklearn().median_absolute_error(a, p),
    ),
    # The baseline's R² is 0 and may be negative, so that shares of it mean nothing. RMSE orders models in the same way.
    Metric("r2", "R²", REGRESSION, _r2, higher_is_better=True, may_decide=False),
    Metric("log_loss", "log loss", CLASSIFICATION, _log_loss, row_losses=_row_log_losses),
    Metric("error_rate", "error rate", CLASSIFICATION, lambda a, p: 1 - _accuracy(a, p), row_losses=_is_wrong),
    Metric(
        "accuracy",
        "accuracy",
        CLASSIFICATION,
        _accuracy,
        higher_is_better=True,
        row_losses=_is_wrong,
        of_mean_loss=lambda loss: 1 - loss,
    ),
    Metric(
        "brier",
        "Brier score",
        BINARY,
        lambda a, p: ((p[:, 1] - a) ** 2).mean(),
        row_losses=lambda a, p: (p[:, 1] - a) ** 2,
    ),
    Metric(
        "f1",
        "F1",
        BINARY,
        lambda a, p: _sklearn().f1_score(a, p.argmax(axis=1), zero_division=0),
        higher_is_better=True,
    ),
    Metric("roc_auc", "ROC AUC", BINARY, _roc_auc, higher_is_better=True),
    Metric(
        "macro_f1",
        "macro F1",
        MULTICLASS,
        lambda a, p: _sklearn().f1_score(a, p.argmax(axis=1), average="macro", zero_division=0),
        higher_is_better=True,
    ),
)
METRICS = {metric.name: metric for metric in _ALL}
"""Every metric, by name."""
DEFAULT: dict[Problem, str] = {"regression": "rmse", "binary": "log_loss", "multiclass": "log_loss"}
"""What training loops report, tuning searches by, and promotions depend on unless another metric is chosen."""

if TYPE_CHECKING:
    DecidingMetric = str
else:  # the choices of a form and of the command line
    DecidingMetric = Literal[("auto", *(metric.name for metric in _ALL if metric.may_decide))]


def deciding_metric(problem: Problem, choice: str) -> str:
    """Return the name of the metric that decides on a promotion; ``auto`` is the default for the problem.

    Raises:
        ParameterError: The metric does not fit the problem.
    """
    if choice == "auto":
        return DEFAULT[problem]
    fitting = [metric.name for metric in _ALL if metric.may_decide and problem in metric.problems]
    if choice not in fitting:
        raise ParameterError(
            f"the metric {choice} does not measure a {problem} model",
            where="evaluate.metric",
            remedy=f"Choose one of {', '.join(fitting)}, or auto",
        )
    return choice


def compute(target: Target, actual: "np.ndarray", predicted: "np.ndarray") -> dict[str, float]:
    """Return the value of each metric that is defined on these rows; none without rows.

    ROC AUC is not defined where all rows have one class, R² not where all have one value.

    Args:
        actual: Values, or class numbers.
        predicted: Values (rows), or probabilities (rows by classes). Finite.
    """
    if len(actual) == 0:
        return {}
    measured = {metric.name: metric.measure(actual, predicted) for metric in _ALL if target.problem in metric.problems}
    return {name: float(value) for name, value in measured.items() if value is not None}
