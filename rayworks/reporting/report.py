"""What people look at after a run: an HTML page that needs no network, Markdown, tables, lines for a terminal. Pure.

Every function takes the records that a run made; those that it did not make are none, and their sections are left out.
"""

import math
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, cast

from rayworks import __version__, storage
from rayworks.metrics import METRICS
from rayworks.records import (
    Dataset,
    Evaluation,
    Metrics,
    ModelRef,
    ModelVersion,
    PromotionDecision,
    ServeCheck,
    TuneResult,
)
from rayworks.reporting import figures
from rayworks.reporting.charts import number

TRIALS_SHOWN = 20
SOURCES_SHOWN = 12
MODELS = ("candidate", "champion", "baseline")
Row = dict[str, str | int | float | None]


class Run(TypedDict):
    """The records of a run. ``links`` are addresses by name, ``seconds`` durations by stage."""

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
    """The whole report as one page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rayworks", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"number": number, "label": lambda name: METRICS[name].label, "integer": "{:,}".format}
    cast(Any, environment).filters.update(filters)
    evaluation, tune, model = run["evaluation"], run["tune"], run["model"]
    important = [str(x) for p in evaluation.plots if p.name == "importance" for x in p.x] if evaluation else []
    return environment.get_template("report.html.j2").render(
        **run,
        tone=tone(run["decision"]),
        verdict=verdict(run),
        tiles=tiles(evaluation),
        rayworks=__version__,
        metrics=metric_rows(evaluation) if evaluation else [],
        columns=_column_rows(run["dataset"]),
        trials=trial_rows(tune)[:TRIALS_SHOWN] if tune else [],
        slices=slice_rows(evaluation) if evaluation else [],
        sources=run["dataset"].sources[:SOURCES_SHOWN],
        data_figures=figures.of_dataset(run["dataset"], important),
        tuning_figures=figures.of_tuning(tune) if tune else [],
        curve=figures.of_curve(model) if model else None,
        slice_figures=figures.of_slices(evaluation) if evaluation else [],
        prediction_figures=figures.of_predictions(evaluation) if evaluation else [],
    )


def write(uri: str, page: str) -> None:
    """Keep a report, atomically. Raises StorageError when it cannot be written."""
    storage.write_bytes(uri, page.encode())


def tone(decision: PromotionDecision | None) -> str:
    """How the verdict is coloured."""
    return "plain" if decision is None else "good" if decision.promoted else "bad"


def verdict(run: Run) -> str:
    """What came out, in a few words."""
    decision, evaluation = run["decision"], run["evaluation"]
    if decision:
        version = f"Version {decision.candidate.version}"
        if decision.promoted:
            return f"{version} is the new champion" if decision.changed else f"{version} is the champion already"
        return f"{version} was not promoted" + (", the champion stays" if decision.previous else "")
    if evaluation:
        metric = METRICS[evaluation.metric].label
        value = number(evaluation.candidate.values[evaluation.metric])
        return f"{metric[:1].upper()}{metric[1:]} {value} on the hold-out rows"
    if model := run["model"]:
        return f"Trained: {METRICS[model.metric].label} {number(model.validation)} on the validation rows"
    return f"{run['dataset'].rows_kept:,} rows are ready"


def shown_gain(candidate: float | None, rival: float | None, metric: str) -> float | None:
    """Return by which share the candidate is better than the rival, or None if they cannot be compared."""
    if candidate is None or rival is None:
        return None
    share = METRICS[metric].gain(candidate, rival)
    return share if math.isfinite(share) else None


def compared(candidate: Metrics, rival: Metrics | None, metric: str) -> str:
    """'12.3% better', '0.4% worse', or nothing where there is no comparison."""
    share = shown_gain(candidate.values.get(metric), rival.values.get(metric) if rival else None, metric)
    if share is None:
        return ""
    return f"{abs(share):.1%} {'better' if share > 0 else 'worse'}" if abs(share) >= 0.0005 else "the same"


def tiles(evaluation: Evaluation | None) -> list[dict[str, str]]:
    """The deciding metric of candidate, champion and baseline, side by side."""
    if evaluation is None:
        return []
    metric, ours = evaluation.metric, evaluation.candidate
    rivals = {"champion": evaluation.champion, "baseline": evaluation.baseline}
    found = [
        {
            "name": "candidate",
            "value": number(ours.values[metric]),
            "detail": f"{METRICS[metric].label}, {ours.rows:,} rows",
        }
    ]
    for name, rival in rivals.items():
        against = compared(ours, rival, metric)
        absent = "could not be scored" if evaluation.champion_error else "there is none yet"
        value = number(rival.values.get(metric)) if rival else number(None)
        found.append({"name": name, "value": value, "detail": f"the candidate is {against}" if against else absent})
    return found


def metric_rows(evaluation: Evaluation) -> list[Row]:
    """A row a metric: candidate, champion and baseline. The deciding one comes first."""
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
    """A row a slice, with the deciding metric; where the candidate is worst against the champion comes first."""
    metric = evaluation.metric

    def row(part: Any) -> Row:
        ours = part.candidate.values.get(metric)
        theirs = part.champion.values.get(metric) if part.champion else None
        return {
            "column": part.column,
            "value": part.value,
            "rows": part.candidate.rows,
            "candidate": ours,
            "champion": theirs,
            "baseline": part.baseline.values.get(metric),
            "against champion": shown_gain(ours, theirs, metric),
        }

    def order(row: Row) -> float:
        against = row["against champion"]
        return float(against) if against is not None else float("inf")

    return sorted((row(part) for part in evaluation.slices), key=order)


def trial_rows(tune: TuneResult) -> list[Row]:
    """A row a trial, the best first."""
    worst, higher_is_better = METRICS[tune.metric].worst, METRICS[tune.metric].higher_is_better
    ordered = sorted(tune.trials, key=lambda t: worst if t.metric is None else t.metric, reverse=higher_is_better)
    return [
        {
            "trial": t.number,
            tune.metric: t.metric,
            **t.hyperparameters,
            "rounds": t.rounds,
            "seconds": round(t.seconds, 1),
            "state": f"{t.state}: {t.error}" if t.error else t.state,
        }
        for t in ordered
    ]


def readable(rows: Sequence[Row]) -> list[dict[str, str | int]]:
    """Rows for a table that shows every digit of a number: rounded here, and a dash where there is none."""

    def cell(name: str, value: str | float | None) -> str | int:
        if name == "against champion" and value is not None:
            return f"{float(value):+.1%}"
        return number(value) if value is None or isinstance(value, float) else value

    return [{name: cell(name, value) for name, value in row.items()} for row in rows]


def _column_rows(dataset: Dataset) -> list[Row]:
    """What became of each column, with its missing share and range in training."""
    statistics = {s.name: s for s in dataset.split("train").statistics}
    made: dict[str, int] = {}
    for feature in dataset.feature_set.features:
        made[feature.source] = made.get(feature.source, 0) + 1
    rows: list[Row] = []
    for column in (*dataset.feature_set.columns, *dataset.feature_set.ignored):
        found = statistics.get(column.name)
        spread = ""
        if found and found.values:
            spread = ", ".join(found.values[:4]) + (" …" if len(found.values) > 4 else "")
        elif found and found.kind == "numeric":
            spread = f"{number(found.minimum)} to {number(found.maximum)}, mean {number(found.mean)}"
        rows.append(
            {
                "name": column.name,
                "kind": column.kind,
                "stored as": column.dtype,
                "features": made.get(column.name, 0),
                "missing": f"{found.missing / max(found.rows, 1):.1%}" if found else "",
                "values": spread,
                "note": "; ".join(filter(None, ["declared" if column.declared else "", column.note])),
            }
        )
    return rows


def summary(**run: Unpack[Run]) -> list[tuple[str, str]]:
    """Pairs of name and text for a terminal: what one wants to know when a run ends."""
    dataset, tune, evaluation, decision = run["dataset"], run["tune"], run["evaluation"], run["decision"]
    lines = [("rows", f"{dataset.rows_in:,} in, {dataset.rows_kept:,} kept, {dataset.rows_rejected:,} set aside")]
    lines += [("set aside", f"{rows:,}: {reason}") for reason, rows in list(dataset.reasons.items())[:3]]
    if tune:
        lines.append(("best trial", _best_trial(tune)))
    if evaluation:
        lines += [(tile["name"], f"{tile['value']} ({tile['detail']})") for tile in tiles(evaluation)]
    if evaluation and evaluation.champion_error:
        lines.append(("champion", evaluation.champion_error))
    if decision:
        lines += [("verdict", verdict(run)), ("reason", decision.reason)]
    return [*lines, *run["links"].items()]


def _best_trial(tune: TuneResult) -> str:
    found = ", ".join(f"{k} {number(v) if isinstance(v, float) else v}" for k, v in tune.best.hyperparameters.items())
    return f"number {tune.best.number} of {len(tune.trials)}, {METRICS[tune.metric].label} {number(tune.best.metric)}: {found}"


def markdown(**run: Unpack[Run]) -> str:
    """A summary for a Prefect artifact."""
    dataset, evaluation, decision, tune = run["dataset"], run["evaluation"], run["decision"], run["tune"]
    mark = {"good": "✓ ", "bad": "✗ ", "plain": ""}[tone(decision)]
    parts = [f"## {mark}{_plain(verdict(run))}", _plain(decision.reason) if decision else ""]
    if evaluation:
        rows = [[_plain(row["metric"]), *(number(_float(row[n])) for n in MODELS)] for row in metric_rows(evaluation)]
        parts.append(_table(["hold-out metric", *MODELS], rows))
        parts.append(f"**Champion:** {_plain(evaluation.champion_error)}" if evaluation.champion_error else "")
    if decision and decision.checks:
        parts.append(
            "\n".join(f"- {'✓' if c.passed else '✗'} **{_plain(c.name)}**: {_plain(c.detail)}" for c in decision.checks)
        )
    kept = f"**Rows:** {dataset.rows_in:,} in, {dataset.rows_kept:,} kept, {dataset.rows_rejected:,} set aside"
    reasons = "; ".join(f"{rows:,}: {reason}" for reason, rows in list(dataset.reasons.items())[:5])
    parts.append(kept + (f" ({_plain(reasons)})" if reasons else ""))
    parts.append(f"**Best trial:** {_plain(_best_trial(tune))}" if tune else "")
    parts.append("\n".join(f"- {_plain(name)}: {_link(address)}" for name, address in run["links"].items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _float(value: str | float | None) -> float | None:
    return None if value is None else float(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = "|".join(["---", *["---:"] * (len(head) - 1)])
    return "\n".join([f"| {' | '.join(head)} |", f"|{ruler}|", *(f"| {' | '.join(row)} |" for row in rows)])


def _plain(words: object) -> str:
    """Text from data as text: nothing in it is taken for Markdown or HTML."""
    escaped = str(words).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#!" else character for character in escaped)


def _link(address: str) -> str:
    return (
        f"<{address}>"
        if address.startswith(("http://", "https://")) and ">" not in address
        else f"`{address.replace('`', '')}`"
    )
