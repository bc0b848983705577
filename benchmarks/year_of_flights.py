"""The months of 2013 arrive one by one: how well is each predicted, by when a model is trained again?

    uv run benchmarks/year_of_flights.py [PAGE] [STORAGE]      year-of-flights.html, a temporary folder

The served model predicts each month before anything learns from it (prequential evaluation: Gama, Sebastião and
Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90, 2013). Then a policy decides whether a model
is trained on all months so far, and the gate whether that one is served from then on: on the newest rows, from which
neither has learned. There is one model of each number of months, whichever policy asks for it. The first is that of
January. None is tuned.

Policies, with thresholds that were fixed before the first run:
    never       January's model is served all year
    always      train after each month
    on drift    train if rayworks finds that a column or the predictions drifted in the month, with its own thresholds
    on error    train if the RMSE on the month is more than 10 % above that on the hold-out rows of the served model
    hindsight   no policy: of all models that there could have been, the one that turned out best on the month
"""

import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from rayworks import ray_running, storage
from rayworks.data import processing, reading
from rayworks.evaluation import champion_drift, comparison, evaluation, gate, registry
from rayworks.metrics import METRICS
from rayworks.models import stored
from rayworks.monitoring.options import MonitorOptions
from rayworks.params import EvaluateOptions, ProcessOptions, PromoteOptions, TrainOptions
from rayworks.records import DatasetRef, Evaluation, Interval, ModelRef, ModelVersion
from rayworks.reporting import charts
from rayworks.training import training

POLICIES = ("never", "always", "on drift", "on error", "hindsight")
ERROR_LIMIT = 0.1
CONFIDENCE = 0.95
NAME, TARGET, METRIC = "year-of-flights", "arr_delay", METRICS["rmse"]
LAST = 12
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
STYLE = """
.never { color: #98a2b0; } .always { color: #2563eb; } .drift { color: #d9730d; } .error { color: #8a5cd6; }
.hindsight { color: #13795b; } .legend .key { margin-left: 8px; }
"""


@dataclass(frozen=True)
class Month:
    """What arrives in a month: the flights that have a target."""

    uri: str
    rows: pl.DataFrame

    @property
    def actual(self) -> np.ndarray:
        return self.rows[TARGET].to_numpy().astype("float64")

    @property
    def days(self) -> np.ndarray:
        return self.rows["time_hour"].dt.ordinal_day().to_numpy()


@dataclass
class Year:
    """The months, and what all policies share. A model is named by the number of months that it learned from."""

    storage_uri: str
    made: dict[int, tuple[DatasetRef, ModelRef, ModelVersion]] = field(default_factory=dict[int, Any])
    scores: dict[tuple[int, int], np.ndarray] = field(default_factory=dict[tuple[int, int], Any])

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.storage_uri}/year-of-flights.db"

    @cached_property
    def months(self) -> dict[int, Month]:
        files = reading.source_files(reading.resolve("example://flights", self.storage_uri))
        uris = [file.source.uri for file in files]
        return {n: Month(uri, pl.read_parquet(uri).drop_nulls(TARGET)) for n, uri in enumerate(uris, start=1)}

    def model(self, months: int) -> tuple[DatasetRef, ModelRef, ModelVersion]:
        """Process, train and register, once."""
        if months not in self.made:
            uris = [self.months[number].uri for number in range(1, months + 1)]
            to = self.storage_uri
            dataset = processing.stage(
                "example://flights", TARGET, ProcessOptions(), storage_uri=to, name=NAME, only=uris
            ).run()
            model = training.stage(dataset, TrainOptions(), storage_uri=to).run()
            version = registry.registration(model, tracking_uri=self.tracking_uri, storage_uri=to).run()
            sys.stderr.write(f"{MONTHS[months - 1]}: trained on {dataset.rows_kept:,} rows in {model.seconds:.0f} s\n")
            self.made[months] = dataset, model, version
        return self.made[months]

    def judged(self, candidate: int, champion: int | None) -> Evaluation:
        """Compare two models on the hold-out rows of the candidate, which are newer than all that either learned."""
        dataset, _, version = self.model(candidate)
        return evaluation.stage(
            version,
            dataset,
            champion=self.model(champion)[2] if champion else None,
            options=EvaluateOptions(),
            storage_uri=self.storage_uri,
            tracking_uri=self.tracking_uri,
        ).run()

    def predicted(self, model: int, month: int) -> np.ndarray:
        if (model, month) not in self.scores:
            predictor = stored.load(self.model(model)[2].uri, tracking_uri=self.tracking_uri)
            self.scores[model, month] = predictor.score(self.months[month].rows)
        return self.scores[model, month]

    def rmse(self, model: int, month: int) -> float:
        value = METRIC.measure(self.months[month].actual, self.predicted(model, month))
        assert value is not None
        return value

    def drift(self, model: int, month: int) -> str:
        """Return what drifted in a month from what a model learned; the delays themselves do not count."""
        from mlflow import MlflowClient

        client, version = MlflowClient(self.tracking_uri, self.tracking_uri), self.model(model)[2]
        client.set_registered_model_alias(NAME, registry.CHAMPION, str(version.version))
        report = champion_drift.stage(
            NAME,
            self.months[month].uri,
            MonitorOptions(),
            storage_uri=self.storage_uri,
            tracking_uri=self.tracking_uri,
        ).run()
        columns = [each for each in report.columns if each.drifted and each.before.name != TARGET]
        names = [each.before.name for each in columns] + (["the predictions"] if report.prediction.drifted else [])
        return ", ".join(names)


@dataclass(frozen=True)
class Step:
    """What a policy did with a month. ``promoted`` is None where nothing was trained."""

    month: int
    served: int
    rmse: float
    why: str = ""
    promoted: bool | None = None
    decision: str = ""


def followed(policy: str, year: Year) -> list[Step]:
    """Let the months arrive one by one, and follow a policy."""
    steps: list[Step] = []
    served = 1
    for month in range(2, LAST + 1):
        if policy == "hindsight":
            served = min(range(1, month), key=lambda model: year.rmse(model, month))
            steps.append(Step(month, served, year.rmse(served, month)))
            continue
        is_due, why = (False, "") if month == LAST else due(policy, year, served, month)
        if not is_due:
            steps.append(Step(month, served, year.rmse(served, month), why))
            continue
        checks = gate.checks(year.judged(month, served), None, PromoteOptions())
        promoted = all(check.passed for check in checks)
        steps.append(Step(month, served, year.rmse(served, month), why, promoted, gate.reason(checks)))
        served = month if promoted else served
    return steps


def due(policy: str, year: Year, served: int, month: int) -> tuple[bool, str]:
    """Return whether a policy trains a model after a month, and why."""
    match policy:
        case "always":
            return True, "it is so each month"
        case "on drift":
            drifted = year.drift(served, month)
            return bool(drifted), f"drifted: {drifted}" if drifted else "nothing drifted"
        case "on error":
            before, now = year.judged(served, None).candidate.values["rmse"], year.rmse(served, month)
            words = f"RMSE {now:.1f}, and {before:.1f} on its hold-out rows"
            return now > before * (1 + ERROR_LIMIT), words
        case _:
            return False, ""


@dataclass(frozen=True)
class Outcome:
    """A whole year of a policy."""

    steps: list[Step]
    rmse: float
    better: Interval | None
    """By how much the RMSE of the year is lower than that of ``never``, by a jackknife over its days."""
    trained: int
    seconds: float


def outcome(steps: list[Step], year: Year) -> Outcome:
    months = [year.months[step.month] for step in steps]
    actual, predicted, never = (
        np.concatenate(parts)
        for parts in (
            [month.actual for month in months],
            [year.predicted(step.served, step.month) for step in steps],
            [year.predicted(1, step.month) for step in steps],
        )
    )
    days = np.concatenate([month.days for month in months])
    value = METRIC.measure(actual, predicted)
    assert value is not None
    trained = [year.model(step.month)[1] for step in steps if step.promoted is not None]
    better = comparison.interval(METRIC, actual, predicted, never, days, confidence=CONFIDENCE)
    return Outcome(steps, value, better, len(trained), sum(model.seconds for model in trained))


def rows_by_month(outcomes: dict[str, Outcome]) -> list[list[str]]:
    """Return the error by month and policy, with the months that the served model learned from."""
    table: list[list[str]] = []
    for index, month in enumerate(range(2, LAST + 1)):
        steps = [each.steps[index] for each in outcomes.values()]
        table.append([MONTHS[month - 1], *(f"{step.rmse:.2f} ({MONTHS[step.served - 1]})" for step in steps)])
    return table


def rows_by_policy(outcomes: dict[str, Outcome]) -> list[list[str]]:
    def gained(each: Outcome) -> str:
        if each.better is None or each.better.low == each.better.high:
            return "-"
        middle = (each.better.low + each.better.high) / 2
        return f"{middle:+.2f} ({each.better.low:+.2f} to {each.better.high:+.2f})"

    return [
        [
            name,
            f"{each.rmse:.2f}",
            gained(each),
            str(each.trained),
            str(sum(bool(step.promoted) for step in each.steps)),
            f"{each.seconds:.0f}",
        ]
        for name, each in outcomes.items()
    ]


BY_POLICY = ["policy", "RMSE of the year", "lower than never (95 %)", "trained", "promoted", "seconds of training"]


def what_happened(outcomes: dict[str, Outcome]) -> list[list[str]]:
    """Return what each policy did after each month, and why."""
    words = {None: "nothing", True: "promoted", False: "refused"}
    return [
        [
            MONTHS[step.month - 1],
            name,
            words[step.promoted],
            ". ".join(part for part in (step.why, step.decision) if part),
        ]
        for name, each in outcomes.items()
        if name not in ("never", "hindsight")
        for step in each.steps
        if step.month < LAST
    ]


def page(outcomes: dict[str, Outcome]) -> str:
    """Return the page: the monthly error by policy, and what happened."""
    curves = {name: [(float(step.month), step.rmse) for step in each.steps] for name, each in outcomes.items()}
    chart = charts.lines(curves, "RMSE by month", "month of 2013", "RMSE in minutes", dots=True)
    keys = Markup("").join(Markup('<i class="key {0}"></i>{0}').format(name) for name in outcomes)
    style = Markup(resources.files("rayworks.reporting").joinpath("report.css").read_text() + STYLE)
    paragraphs = Markup("").join(Markup("<p>{}</p>").format(part) for part in (__doc__ or "").split("\n\n")[2:3])
    policies = Markup("<pre>{}</pre>").format((__doc__ or "").split("\n\n")[3])
    return Markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The year of flights</title>'
        "<style>{style}</style></head><body><main><header><div class='card verdict'><h1>The year of flights</h1>"
        "{paragraphs}{policies}</div></header><h2>Error of the served model before anything learned from the month</h2>"
        "<figure class='card'><figcaption><h3>RMSE by month</h3><div class='legend'>{keys}</div></figcaption>{chart}"
        "</figure>{by_policy}{by_month}<h2>What was trained, promoted and refused</h2>{happened}</main></body></html>\n"
    ).format(
        style=style,
        paragraphs=paragraphs,
        policies=policies,
        keys=keys,
        chart=chart,
        by_policy=html_table(BY_POLICY, rows_by_policy(outcomes)),
        by_month=html_table(["month", *outcomes], rows_by_month(outcomes)),
        happened=html_table(["after", "policy", "a new model was", "why"], what_happened(outcomes)),
    )


def html_table(header: list[str], rows: list[list[str]]) -> Markup:
    def line(cells: list[str], tag: str) -> Markup:
        return Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<{0}>{1}</{0}>").format(Markup(tag), cell) for cell in cells)
        )

    body = Markup("").join(line(row, "td") for row in rows)
    table = Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(line(header, "th"), body)
    return Markup("<div class='card scroll' style='margin-top:14px'>{}</div>").format(table)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]) + "\n\n"


def main(page_path: str = "year-of-flights.html", folder: str = "") -> None:
    with tempfile.TemporaryDirectory(prefix="rayworks-") as temporary, ray_running():
        year = Year(storage.absolute(folder or temporary))
        outcomes = {policy: outcome(followed(policy, year), year) for policy in POLICIES}
    storage.write_bytes(str(Path(page_path).absolute()), page(outcomes).encode())
    sys.stdout.write(markdown(BY_POLICY, rows_by_policy(outcomes)))
    sys.stdout.write(markdown(["month", *outcomes], rows_by_month(outcomes)))
    sys.stdout.write(f"{page_path}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
