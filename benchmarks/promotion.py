"""How often the gate promotes a model over its equal, and over worse ones, on the flights.

    uv run python benchmarks/promotion.py [MODELS]      21

Trains so many models with the defaults and different seeds, and lets each be the candidate against each other one (a
random one of the two is the champion): an equal that is promoted is a mistake. Worse champions are models of other
seeds with a part of their rounds, or trained on a part of the rows. Compared on the test rows with the options of
evaluation and gate as they are; slices, which can only refuse, are left out.
"""

import itertools
import sys
import tempfile
from typing import Any, cast

import numpy as np
from quality import Task, opened

from rayworks import ray_running
from rayworks.data import processing
from rayworks.evaluation import comparison, gate
from rayworks.metrics import METRICS
from rayworks.models import stored
from rayworks.models.xgboost import XGBoostModel
from rayworks.params import EvaluateOptions, ProcessOptions, PromoteOptions, TrainOptions
from rayworks.records import Evaluation, Metrics
from rayworks.training import training
from rayworks.training.loops.xgboost import DEFAULTS

SHARES = {"rounds": (0.3, 0.35, 0.4, 0.45, 0.5, 0.6), "rows": (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)}
METRIC = METRICS["rmse"]


def predictions(task: Task, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the predictions of a model for the test rows, and those of its worse versions."""
    import xgboost as xgb

    options = TrainOptions(hyperparameters={"seed": seed})
    model = training.stage(task.ref, options, storage_uri=task.storage_uri).run()
    trees = cast(XGBoostModel, stored.load(model.uri).model).booster
    rounds, (rows, labels), random = trees.num_boosted_rounds(), task.both(), np.random.default_rng(seed)
    worse = {f"{share:.0%} of the rounds": trees[: round(rounds * share)] for share in SHARES["rounds"]}
    for share in SHARES["rows"]:
        chosen = np.sort(random.choice(len(labels), round(len(labels) * share), replace=False))
        few = xgb.QuantileDMatrix(rows.iloc[chosen], labels[chosen], enable_categorical=True)
        worse[f"{share:.0%} of the rows"] = xgb.train({**DEFAULTS, "seed": seed}, few, rounds)
    test = xgb.DMatrix(task.test[0], enable_categorical=True)

    def predicted(model: Any) -> np.ndarray:
        return model.predict(test, validate_features=False).astype("float64")

    return predicted(trees), {name: predicted(each) for name, each in worse.items()}


def rmse(task: Task, predicted: np.ndarray) -> float:
    value = METRIC.measure(task.test[1], predicted)
    assert value is not None
    return value


def is_promoted(task: Task, candidate: np.ndarray, champion: np.ndarray) -> bool:
    """Return whether the gate finds the candidate better than the champion."""
    groups, confidence = task.test_groups, EvaluateOptions().confidence
    evaluation = Evaluation.model_construct(
        metric="rmse",
        candidate=Metrics(rows=len(groups), values={"rmse": rmse(task, candidate)}),
        champion=Metrics(rows=len(groups), values={"rmse": rmse(task, champion)}),
        champion_error="",
        baseline=Metrics(rows=len(groups), values={"rmse": float(np.std(task.test[1]))}),
        slices=(),
        interval=comparison.interval(METRIC, task.test[1], candidate, champion, groups, confidence=confidence),
    )
    return all(check.passed for check in gate.checks(evaluation, None, PromoteOptions()))


def main(models: int = 21) -> None:
    with tempfile.TemporaryDirectory() as folder, ray_running():
        dataset = processing.stage("example://flights", "arr_delay", ProcessOptions(), storage_uri=folder).run()
        task = opened(dataset, folder)
        found: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        for seed in range(models):
            found.append(predictions(task, seed))
            sys.stderr.write(f"seed {seed}: RMSE {rmse(task, found[-1][0]):.4f}\n")
    values = [rmse(task, whole) for whole, _ in found]
    random = np.random.default_rng(0)
    pairs = [tuple(random.permutation(pair)) for pair in itertools.combinations(range(models), 2)]

    def promoted(champions: list[np.ndarray]) -> str:
        worse = np.mean([rmse(task, champion) for champion in champions]) / np.mean(values) - 1
        share = np.mean([is_promoted(task, found[a][0], champions[b]) for a, b in pairs])
        return f"{worse:.2%} | {share:.1%}"

    sys.stdout.write(f"{len(pairs)} pairs of {models} models, {len(task.test_groups):,} test rows\n")
    sys.stdout.write(f"RMSE {np.mean(values):.4f}, standard deviation {np.std(values, ddof=1) / np.mean(values):.2%}\n")
    sys.stdout.write("| the champion | worse | the candidate is promoted |\n|---|---|---|\n")
    sys.stdout.write(f"| an equal | {promoted([whole for whole, _ in found])} |\n")
    for name in found[0][1]:
        sys.stdout.write(f"| {name} | {promoted([worse[name] for _, worse in found])} |\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
