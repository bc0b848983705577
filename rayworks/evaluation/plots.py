"""The data of plots of predictions: small enough for a record, whatever the number of rows. Pure."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from rayworks.records import PlotData, Target

BINS = 40
TENTHS = 10
ROC_POINTS = 51
IMPORTANT_FEATURES = 20
Predictions = Mapping[str, np.ndarray]


def plots(target: Target, actual: np.ndarray, predictions: Predictions) -> list[PlotData]:
    """Return the plots that fit the problem.

    Args:
        actual: Values, or class numbers; not empty.
        predictions: By name of the model, the candidate first: values (rows), or probabilities (rows by classes).
    """
    if target.problem == "regression":
        return [_residuals(actual, predictions), _calibration(predictions, dict.fromkeys(predictions, actual))]
    if target.problem == "binary":
        positive = {name: predicted[:, 1] for name, predicted in predictions.items()}
        calibration = _calibration(positive, dict.fromkeys(positive, actual))
        return [calibration, _roc(actual, positive)] if len(np.unique(actual)) == 2 else [calibration]
    confidence = {name: predicted.max(axis=1) for name, predicted in predictions.items()}
    correct = {name: predicted.argmax(axis=1) == actual for name, predicted in predictions.items()}
    return [_calibration(confidence, correct), _confusion(target, actual, predictions["candidate"])]


def importance(gains: Mapping[str, float]) -> list[PlotData]:
    """Return the most important features and their shares of the total gain; empty if the model has none."""
    total = sum(gains.values())
    if not total:
        return []
    first = sorted(gains.items(), key=lambda pair: -pair[1])[:IMPORTANT_FEATURES]
    names, shares = tuple(name for name, _ in first), tuple(gain / total for _, gain in first)
    return [PlotData(name="importance", x=names, series={"candidate": shares})]


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, values))


def _residuals(actual: np.ndarray, predictions: Predictions) -> PlotData:
    """Return shares of rows by actual minus predicted, at the middles of bins, without the outermost hundredth."""
    low, high = np.quantile(actual - predictions["candidate"], [0.005, 0.995])
    edges = cast(np.ndarray, np.linspace(low, high if high > low else low + 1, BINS + 1))
    series = {
        name: _floats(np.histogram(actual - predicted, bins=edges)[0] / len(actual))
        for name, predicted in predictions.items()
    }
    return PlotData(name="residuals", x=_floats((edges[1:] + edges[:-1]) / 2), series=series)


def _calibration(predictions: Predictions, actual: Predictions) -> PlotData:
    """Return the mean prediction and the mean actual value of each tenth of a model's rows, ordered by prediction."""
    tenths = min(TENTHS, min(map(len, predictions.values())))
    series: dict[str, tuple[float, ...]] = {}
    for name, values in predictions.items():
        groups = np.array_split(np.argsort(values, kind="stable"), tenths)
        series[f"{name} predicted"] = _floats(np.array([values[group].mean() for group in groups]))
        series[f"{name} actual"] = _floats(np.array([actual[name][group].mean() for group in groups]))
    return PlotData(name="calibration", x=tuple(float(tenth) for tenth in range(1, tenths + 1)), series=series)


def _roc(actual: np.ndarray, predictions: Predictions) -> PlotData:
    """Return the true positive rate by false positive rate."""
    from sklearn import metrics  # pyright: ignore[reportMissingTypeStubs]

    grid = np.linspace(0, 1, ROC_POINTS)
    series: dict[str, tuple[float, ...]] = {}
    for name, probability in predictions.items():
        false_positive, true_positive, _ = cast(Any, metrics).roc_curve(actual, probability)
        series[name] = (0.0, *_floats(cast(Any, np).interp(grid[1:], false_positive, true_positive)))
    return PlotData(name="roc", x=_floats(grid), series=series)


def _confusion(target: Target, actual: np.ndarray, predicted: np.ndarray) -> PlotData:
    """Return how many rows of each class (x) were predicted as which class (series)."""
    classes = len(target.classes)
    counts = np.bincount(actual * classes + predicted.argmax(axis=1), minlength=classes**2).reshape(classes, classes)
    series = {str(label): _floats(counts[:, number]) for number, label in enumerate(target.classes)}
    return PlotData(name="confusion", x=tuple(str(label) for label in target.classes), series=series)
