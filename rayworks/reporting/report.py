"""The report of a run: an HTML page that needs no network, Markdown, tables, and lines for a terminal. Pure.

Every function takes the records of a run. Those that the run did not create are None, and their sections are left out.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from rayworks import __version__, storage
from rayworks.metrics import METRICS
from rayworks.records import (
    Column,
    ColumnStatistics,
    Dataset,
    Evaluation,
    Metrics,
    ModelRef,
    ModelVersion,
    PromotionDecision,
    ServeCheck,
    SliceMetrics,
    TuneResult,
)
from rayworks.reporting import figures
from rayworks.reporting.charts import number

if TYPE_CHECKING:
    from jinja2 import Environment

TRIALS_SHOWN = 20
SOURCES_SHOWN = 12
VALUES_SHOWN = 4
CLASSES_SHOWN = 6
IGNORED_SHOWN = 10
TERMINAL_REASONS = 3
MARKDOWN_REASONS = 5
MODELS = ("candidate", "champion", "baseline")
MARKS = {True: "✓", False: "✗"}
Row = dict[str, str | int | float | None]


class Run(TypedDict):
    """The records of a run. ``links`` are URIs, or commands, by name; ``seconds`` are durations by stage."""

    title: str
    dataset: Dataset
    tune: TuneResult | None
    model: ModelRef | None
    version: ModelVersion | None
    evaluation: Evaluation | None
    serve_check: ServeCheck | None
    decision: PromotionDecision | None
    links: dict[str, str]
    seconds: dict[str, float]


def html(**run: Unpack[Run]) -> str:
    """Return the whole report as one page."""
    evaluation, tune, model = run["evaluation"], run["tune"], run["model"]
    important = [str(x) for p in evaluation.plots if p.name == "importance" for x in p.x] if evaluation else []
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **run,
            tone=tone(run["decision"]),
            verdict=verdict(run),
            tiles=tiles(evaluation),
            rayworks=__version__,
            metrics=metric_rows(evaluation) if evaluation else [],
            columns=_column_rows(run["dataset"]),
            understood=understood(run["dataset"]),
            trials=trial_rows(tune)[:TRIALS_SHOWN] if tune else [],
            slices=slice_rows(evaluation) if evaluation else [],
            sources=run["dataset"].sources[:SOURCES_SHOWN],
            data_figures=figures.of_dataset(run["dataset"], important),
            tuning_figures=figures.of_tuning(tune) if tune else [],
            curve=figures.of_curve(model) if model else None,
            slice_figures=figures.of_slices(evaluation) if evaluation else [],
            prediction_figures=figures.of_predictions(evaluation) if evaluation else [],
        )
    )


def environment() -> "Environment":
    """Return the templates of this folder, with their filters. All text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("rayworks", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"number": number, "label": lambda name: METRICS[name].label, "integer": "{:,}".format}
    cast(Any, templates).filters.update(filters)
    return templates


def write(uri: str, page: str) -> None:
    """Store a page atomically.

    Raises:
        StorageError: It cannot be written.
    """
    storage.write_bytes(uri, page.encode())


def tone(decision: PromotionDecision | None) -> str:
    """Return the style of the verdict: ``good``, ``bad`` or ``plain``."""
    return "plain" if decision is None else "good" if decision.promoted else "bad"


def verdict(run: Run) -> str:
    """Return the result of the run in one line."""
    decision, evaluation = run["decision"], run["evaluation"]
    if decision:
        version = f"Version {decision.candidate.version}"
        if decision.promoted:
            return f"{version} is the new champion" if decision.changed else f"{version} is already the champion"
        return f"{version} was not promoted" + (", the champion stays" if decision.previous else "")
    if evaluation:
        metric = METRICS[evaluation.metric].label
        value = number(evaluation.candidate.values[evaluation.metric])
        return f"{metric[:1].upper()}{metric[1:]} {value} on the hold-out rows"
    if model := run["model"]:
        return f"Trained: {METRICS[model.metric].label} {number(model.validation)} on the validation rows"
    return f"{run['dataset'].rows_kept:,} rows are ready"


def shown_gain(candidate: float | None, rival: float | None, metric: str) -> float | None:
    """Return the candidate's relative improvement over the rival; None where that is not defined."""
    if candidate is None or rival is None:
        return None
    share = METRICS[metric].gain(candidate, rival)
    return share if math.isfinite(share) else None


def compared(candidate: Metrics, rival: Metrics | None, metric: str) -> str:
    """Return '12.3% better', '0.4% worse' or 'the same'; an empty text where there is no comparison."""
    share = shown_gain(candidate.values.get(metric), rival.values.get(metric) if rival else None, metric)
    if share is None:
        return ""
    return f"{abs(share):.1%} {'better' if share > 0 else 'worse'}" if abs(share) >= 0.0005 else "the same"


def tiles(evaluation: Evaluation | None) -> list[dict[str, str]]:
    """Return the deciding metric of candidate, champion and baseline, each with a detail."""
    if evaluation is None:
        return []
    metric, candidate = evaluation.metric, evaluation.candidate
    rivals = {"champion": evaluation.champion, "baseline": evaluation.baseline}
    detail = f"{METRICS[metric].label}, {candidate.rows:,} rows"
    result = [{"name": "candidate", "value": number(candidate.values[metric]), "detail": detail}]
    for name, rival in rivals.items():
        if rival is None:
            detail = "could not be scored" if evaluation.champion_error else "there was none yet"
        else:
            comparison = compared(candidate, rival, metric)
            detail = f"the candidate is {comparison}" if comparison else "cannot be compared"
        result.append({"name": name, "value": number(rival.values.get(metric) if rival else None), "detail": detail})
    return result


def metric_rows(evaluation: Evaluation) -> list[Row]:
    """Return a row per metric, the deciding one first."""
    names = sorted(evaluation.candidate.values, key=lambda name: name != evaluation.metric)
    champion = evaluation.champion.values if evaluation.champion else {}
    return [
        {
            "metric": METRICS[name].label,
            "candidate": evaluation.candidate.values[name],
            "champion": champion.get(name),
            "baseline": evaluation.baseline.values.get(name),
            "better": "higher" if METRICS[name].higher_is_better else "lower",
        }
        for name in names
    ]


def slice_rows(evaluation: Evaluation) -> list[Row]:
    """Return a row per slice with the deciding metric, from the worst to the best against the champion."""
    metric = evaluation.metric

    def row(item: SliceMetrics) -> Row:
        candidate = item.candidate.values.get(metric)
        champion = item.champion.values.get(metric) if item.champion else None
        return {
            "column": item.column,
            "value": item.value,
            "rows": item.candidate.rows,
            "candidate": candidate,
            "champion": champion,
            "baseline": item.baseline.values.get(metric),
            "against champion": shown_gain(candidate, champion, metric),
        }

    def order(row: Row) -> float:
        share = row["against champion"]
        return math.inf if share is None else float(share)

    return sorted((row(item) for item in evaluation.slices), key=order)


def trial_rows(tune: TuneResult) -> list[Row]:
    """Return a row per trial, from the best to the worst; failed ones last, with their error."""
    metric = METRICS[tune.metric]
    ordered = sorted(
        tune.trials,
        key=lambda trial: metric.worst if trial.metric is None else trial.metric,
        reverse=metric.higher_is_better,
    )
    return [
        {
            "trial": t.number,
            metric.label: t.metric,
            **t.hyperparameters,
            "rounds": t.rounds,
            "seconds": round(t.seconds, 1),
            "state": f"{t.state}: {t.error}" if t.error else t.state,
        }
        for t in ordered
    ]


def readable(rows: Sequence[Row]) -> list[dict[str, str | int]]:
    """Return rows for a table that shows every digit of a number: with rounded numbers, and a dash for None."""

    def cell(name: str, value: str | float | None) -> str | int:
        if name == "against champion" and value is not None:
            return f"{float(value):+.1%}"
        return number(value) if value is None or isinstance(value, float) else value

    return [{name: cell(name, value) for name, value in row.items()} for row in rows]


def _column_rows(dataset: Dataset) -> list[Row]:
    """Return a row per column: its kind, and its missing share and values among the training rows."""
    statistics = {s.name: s for s in dataset.split("train").statistics}
    features = Counter(feature.source for feature in dataset.feature_set.features)

    def row(column: Column) -> Row:
        summary = statistics.get(column.name)
        return {
            "name": column.name,
            "kind": column.kind,
            "stored as": column.dtype,
            "features": features[column.name],
            "missing": f"{summary.missing / max(summary.rows, 1):.1%}" if summary else "",
            "values": _values(summary) if summary else "",
            "note": column.note,
        }

    return [row(column) for column in (*dataset.feature_set.columns, *dataset.feature_set.ignored)]


def _values(statistics: ColumnStatistics) -> str:
    """Return the most frequent values of a column, or its range and mean."""
    if statistics.values:
        return ", ".join(statistics.values[:VALUES_SHOWN]) + (" …" if len(statistics.values) > VALUES_SHOWN else "")
    if statistics.kind == "numeric":
        low, high, mean = number(statistics.minimum), number(statistics.maximum), number(statistics.mean)
        return f"{low} to {high}, mean {mean}"
    return ""


def summary(**run: Unpack[Run]) -> list[tuple[str, str]]:
    """Return the label and text of each line for a terminal."""
    dataset, tune, evaluation, decision = run["dataset"], run["tune"], run["evaluation"], run["decision"]
    lines = [("rows", _row_counts(dataset))]
    lines += [("rejected", f"{rows:,}: {reason}") for reason, rows in islice(dataset.reasons.items(), TERMINAL_REASONS)]
    lines += understood(dataset)
    if tune:
        lines.append(("best trial", _best_trial(tune, dataset)))
    if evaluation:
        lines += [(tile["name"], f"{tile['value']} ({tile['detail']})") for tile in tiles(evaluation)]
    if evaluation:
        notes = {"champion": evaluation.champion_error, "hold-out rows": evaluation.learned}
        lines += [(name, text) for name, text in notes.items() if text]
    if decision:
        lines += [("verdict", verdict(run)), ("reason", decision.reason)]
    return [*lines, *run["links"].items()]


def understood(dataset: Dataset) -> list[tuple[str, str]]:
    """Return what was inferred from the data, label and text: the kind of problem, the ignored columns, and warnings.

    A wrong guess shows here, before anything is trained.
    """
    target, ignored = dataset.target, dataset.feature_set.ignored
    if target.classes:
        shown = ", ".join(
            f"{label} ({dataset.class_counts.get(str(label), 0):,})" for label in target.classes[:CLASSES_SHOWN]
        )
        more = ", …" if len(target.classes) > CLASSES_SHOWN else ""
        problem = f"{target.problem} with {len(target.classes)} classes (training rows): {shown}{more}"
    else:
        statistics = {column.name: column for column in dataset.split("train").statistics}
        problem = f"regression: {_values(statistics[target.name])}"
    lines = [("target", f"{target.name}, {problem}")]
    if ignored:
        shown = ", ".join(f"{column.name} ({column.note})" for column in ignored[:IGNORED_SHOWN])
        more = f", and {len(ignored) - IGNORED_SHOWN} more" if len(ignored) > IGNORED_SHOWN else ""
        lines.append(("ignored", f"{shown}{more}"))
    if dataset.hold_out:
        lines.append(("hold-out", dataset.hold_out))
    return [*lines, *(("warning", warning) for warning in dataset.warnings)]


def _row_counts(dataset: Dataset) -> str:
    return f"{dataset.rows_in:,} in, {dataset.rows_kept:,} kept, {dataset.rows_rejected:,} rejected"


def _best_trial(tune: TuneResult, dataset: Dataset) -> str:
    best, count = tune.best, len(tune.trials)
    values = (
        f"{name} {number(value) if isinstance(value, float) else value}" for name, value in best.hyperparameters.items()
    )
    earlier = "" if tune.dataset_uri == dataset.uri else f" of the champion's search of {tune.ended:%Y-%m-%d}"
    metric = f"{METRICS[tune.metric].label} {number(best.metric)}"
    return f"number {best.number} of {count}{earlier}, {metric}: {', '.join(values)}"


def markdown(**run: Unpack[Run]) -> str:
    """Return a summary for a Prefect artifact."""
    dataset, evaluation, decision, tune = run["dataset"], run["evaluation"], run["decision"], run["tune"]
    mark = {"good": "✓ ", "bad": "✗ ", "plain": ""}[tone(decision)]
    parts = [f"## {mark}{_plain(verdict(run))}", _plain(decision.reason) if decision else ""]
    if evaluation:
        table = readable(metric_rows(evaluation))
        rows = [[_plain(row["metric"]), *(str(row[name]) for name in MODELS)] for row in table]
        parts.append(_table(["hold-out metric", *MODELS], rows))
        parts.append(f"**Champion:** {_plain(evaluation.champion_error)}" if evaluation.champion_error else "")
        parts.append(f"**Hold-out rows:** {_plain(evaluation.learned)}" if evaluation.learned else "")
    if decision and decision.checks:
        lines = (f"{MARKS[check.passed]} **{_plain(check.name)}**: {_plain(check.detail)}" for check in decision.checks)
        parts.append("\n".join(f"- {line}" for line in lines))
    reasons = "; ".join(f"{rows:,}: {reason}" for reason, rows in islice(dataset.reasons.items(), MARKDOWN_REASONS))
    parts.append(f"**Rows:** {_row_counts(dataset)}" + (f" ({_plain(reasons)})" if reasons else ""))
    parts += [f"**{label.capitalize()}:** {_plain(text)}" for label, text in understood(dataset)]
    parts.append(f"**Best trial:** {_plain(_best_trial(tune, dataset))}" if tune else "")
    parts.append("\n".join(f"- {_plain(name)}: {_link(address)}" for name, address in run["links"].items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = "|".join(["---", *["---:"] * (len(header) - 1)])
    return "\n".join([f"| {' | '.join(header)} |", f"|{ruler}|", *(f"| {' | '.join(row)} |" for row in rows)])


def _plain(text: object) -> str:
    """Escape text from data, so that nothing in it is read as Markdown or HTML."""
    escaped = str(text).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#!" else character for character in escaped)


def _link(address: str) -> str:
    is_web_address = address.startswith(("http://", "https://")) and ">" not in address
    return f"<{address}>" if is_web_address else f"`{address.replace('`', '')}`"
