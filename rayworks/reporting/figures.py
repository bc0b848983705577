"""The figures of a report: charts with titles and legends, from records. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from rayworks.metrics import METRICS
from rayworks.records import ColumnStatistics, Dataset, Evaluation, ModelRef, PlotData, SliceMetrics, Trial, TuneResult
from rayworks.reporting import charts
from rayworks.reporting.charts import number

COLUMNS_SHOWN = 6
CATEGORIES_SHOWN = 12
VALUES_SHOWN = 20


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the series of its legend, and a note below it."""

    title: str
    chart: Markup
    legend: tuple[str, ...] = ()
    note: str = ""


def of_dataset(dataset: Dataset, important: Sequence[str]) -> list[Figure]:
    """Return the distributions of the target and the most important columns, of training and test rows.

    A shift between the two shows here first.
    """
    train, test = ({s.name: s for s in dataset.split(name).statistics} for name in ("train", "test"))
    sources = {feature.name: feature.source for feature in dataset.feature_set.features}
    names = [dataset.target.name, *(name if name in train else sources.get(name, name) for name in important), *train]
    shown = [name for name in dict.fromkeys(names) if name in train and name in test][:COLUMNS_SHOWN]
    figures = [_distribution(train[name], test[name], target=name == dataset.target.name) for name in shown]
    return [figure for figure in figures if figure]


def _distribution(train: ColumnStatistics, test: ColumnStatistics, *, target: bool) -> Figure | None:
    return compared(f"{train.name} (target)" if target else train.name, {"train": train, "test": test})


def compared(title: str, statistics: Mapping[str, ColumnStatistics]) -> Figure | None:
    """Return the distributions of one column in two sets of rows, by their names; None where they have no values.

    Both have the edges or the values of the first.
    """
    first, second = statistics.values()
    missing = ", ".join(f"{s.missing / max(s.rows, 1):.1%} of {name}" for name, s in statistics.items())
    note = f"missing: {missing}" if first.missing or second.missing else ""
    if first.edges and first.counts and second.counts:
        shares = {name: _shares(s.counts) for name, s in statistics.items()}
        chart = charts.histogram(first.edges, shares, title, first.name, time=first.kind == "timestamp")
    elif first.values:
        values = first.values[:CATEGORIES_SHOWN]
        shares = {name: [_share(s, value) for value in values] for name, s in statistics.items()}
        chart = charts.bars(values, shares, title, "share of rows")
    else:
        return None
    return Figure(title, chart, tuple(statistics), note)


def _share(statistics: ColumnStatistics, value: str) -> float:
    counts = dict(zip(statistics.values, statistics.counts, strict=True))
    return counts.get(value, 0) / max(statistics.rows - statistics.missing, 1)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def of_tuning(tune: TuneResult) -> list[Figure]:
    """Return the best metric after each trial, and each searched hyperparameter against the metric."""
    done = [(trial, trial.metric) for trial in tune.trials if trial.metric is not None]
    if not done:
        return []
    values = [value for _, value in done]
    so_far = [METRICS[tune.metric].best(values[: count + 1], float) for count in range(len(values))]
    curves = {
        "trial": [(float(trial.number), metric) for trial, metric in done],
        "best": [(float(trial.number), best) for (trial, _), best in zip(done, so_far, strict=True)],
    }
    name = METRICS[tune.metric].label
    chart = charts.lines(curves, "Best so far", "trial", name, dots=True)
    figures = [Figure("Best so far", chart, ("trial", "best"))]
    for key in tune.best.hyperparameters:
        values = {str(trial.hyperparameters.get(key)) for trial, _ in done}
        if len(values) > 1 and all(key in trial.hyperparameters for trial, _ in done):
            figures.append(Figure(key, _trials(key, done, tune), ("trial", "best")))
    return figures


def _trials(key: str, done: Sequence[tuple[Trial, float]], tune: TuneResult) -> Markup:
    places = [
        (trial.hyperparameters[key], metric, f"trial {trial.number}: {number(metric)} at {trial.hyperparameters[key]}")
        for trial, metric in done
    ]
    best = next((index for index, (trial, _) in enumerate(done) if trial.number == tune.best.number), 0)
    return charts.points(places, best, f"{key} of the trials", key, METRICS[tune.metric].label)


def of_curve(model: ModelRef) -> Figure | None:
    """Return the learning curve with its best round marked; None if there are fewer than two rounds."""
    if len(model.curve) < 2:
        return None
    curves = {
        "train": [(float(point.round), point.train) for point in model.curve if point.train is not None],
        "validation": [(float(point.round), point.validation) for point in model.curve],
    }
    mark = (float(model.best_round), model.validation, f"round {model.best_round}: {number(model.validation)}")
    chart = charts.lines(curves, "Learning curve", "round", METRICS[model.metric].label, mark=mark)
    return Figure("Learning curve", chart, ("train", "validation"), _where_it_ended(model))


def _where_it_ended(model: ModelRef) -> str:
    """Return why training ended where it did, and which rounds the model has."""
    last = model.curve[-1].round
    if model.best_round < last:
        text = f"Validation did not improve after round {model.best_round} of {last}."
    else:
        text = f"Validation still improved in the last round, {last}: more rounds may give a better model."
    if model.refit_rounds is None:
        return f"{text} The model is that of round {model.best_round}."
    refit = f"The model is that of {model.refit_rounds} rounds on training and validation rows together"
    if model.earlier_best_round is None:
        return f"{text} {refit}."
    earlier = f"On an earlier part of the rows, round {model.earlier_best_round} was the best."
    return f"{text} {earlier} {refit}, as many per row as in the mean of both."


def of_slices(evaluation: Evaluation) -> list[Figure]:
    """Return a figure per column: candidate and champion, or baseline if there is no champion, by value."""
    columns = dict.fromkeys(item.column for item in evaluation.slices)
    return [_of_column(evaluation, [item for item in evaluation.slices if item.column == column]) for column in columns]


def _of_column(evaluation: Evaluation, slices: Sequence[SliceMetrics]) -> Figure:
    metric, shown = METRICS[evaluation.metric], slices[:VALUES_SHOWN]
    rival = "champion" if evaluation.champion else "baseline"
    rivals = [item.champion if evaluation.champion else item.baseline for item in shown]
    series = {
        "candidate": [item.candidate.values.get(metric.name) for item in shown],
        rival: [metrics.values.get(metric.name) if metrics else None for metrics in rivals],
    }
    limit = f" The {len(shown)} largest of {len(slices)} values." if len(shown) < len(slices) else ""
    side = "Right" if metric.higher_is_better else "Left"
    title = f"{metric.label} by {slices[0].column}"
    chart = charts.dumbbells([item.value for item in shown], series, title, metric.label)
    return Figure(f"By {slices[0].column}", chart, tuple(series), f"{side} is better.{limit}")


def of_predictions(evaluation: Evaluation) -> list[Figure]:
    """Return calibration, residuals, ROC, confusion and importance, as far as the evaluation has them."""
    draw = {
        "calibration": _calibration,
        "residuals": _residuals,
        "roc": _roc,
        "confusion": _confusion,
        "importance": _importance,
    }
    plots = {plot.name: plot for plot in evaluation.plots if plot.x and plot.series}
    return [make(plots[name]) for name, make in draw.items() if name in plots]


def _models(plot: PlotData) -> tuple[str, ...]:
    return tuple(name for name in ("candidate", "champion") if any(key.split()[0] == name for key in plot.series))


def _calibration(plot: PlotData) -> Figure:
    curves = {
        name: list(zip(plot.series[f"{name} predicted"], plot.series[f"{name} actual"], strict=True))
        for name in _models(plot)
    }
    chart = charts.lines(curves, "Calibration", "mean predicted", "mean actual", diagonal=True, dots=True)
    return Figure(
        "Calibration",
        chart,
        _models(plot),
        "Each dot is a tenth of the rows. On the dashed line, predictions equal actual values.",
    )


def _residuals(plot: PlotData) -> Figure:
    middles = [float(x) for x in plot.x]
    half = (middles[1] - middles[0]) / 2
    edges = [middles[0] - half, *(sum(pair) / 2 for pair in pairwise(middles)), middles[-1] + half]
    chart = charts.histogram(edges, plot.series, "Residuals", "actual minus predicted")
    return Figure("Residuals", chart, _models(plot), "Good residuals are narrow and centred on zero.")


def _curves(plot: PlotData) -> Mapping[str, list[tuple[float, float]]]:
    return {name: [(float(x), y) for x, y in zip(plot.x, values, strict=True)] for name, values in plot.series.items()}


def _roc(plot: PlotData) -> Figure:
    chart = charts.lines(_curves(plot), "ROC", "false positive rate", "true positive rate", diagonal=True)
    return Figure("ROC curve", chart, _models(plot), "The dashed line is random guessing.")


def _confusion(plot: PlotData) -> Figure:
    labels = [str(x) for x in plot.x][:VALUES_SHOWN]
    rows = [[plot.series[predicted][actual] for predicted in labels] for actual in range(len(labels))]
    totals = [sum(values[actual] for values in plot.series.values()) or 1 for actual in range(len(labels))]
    shares = [[value / total for value in row] for row, total in zip(rows, totals, strict=True)]
    chart = charts.heatmap(labels, shares, "Confusion matrix", "predicted class")
    return Figure("Confusion matrix", chart, (), "Of the candidate: the shares of each actual class (rows).")


def _importance(plot: PlotData) -> Figure:
    chart = charts.bars([str(x) for x in plot.x], plot.series, "Feature importance", "share of the total gain")
    return Figure("Feature importance", chart, (), "Of the candidate, the most important features first.")
