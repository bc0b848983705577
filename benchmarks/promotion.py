"""How often the gate promotes a model over its equal, and over one that is 2 % worse, on the flights.

    uv run python benchmarks/promotion.py [MODELS]      21

Trains so many models with the defaults and different seeds, and lets each be the candidate against each other one (a
random one of the two is the champion): an equal that is promoted is a mistake. The worse champion is a model of another
seed with so few of its rounds that it is 2 % worse on average. Compared on the test rows with the options of evaluation
and gate as they are; slices, which can only refuse, are left out.
"""

import itertools
import sys
import tempfile
from typing import cast

import numpy as np
from quality import Task, opened

from rayworks import ray_running
from rayworks.data import processing, split_rows
from rayworks.evaluation import comparison, gate
from rayworks.metrics import METRICS
from rayworks.models import stored
from rayworks.models.xgboost import XGBoostModel
from rayworks.params import EvaluateOptions, ProcessOptions, PromoteOptions, TrainOptions
from rayworks.records import Evaluation, Metrics
from rayworks.training import training

WORSE = 0.02
PARTS = 50
METRIC = METRICS["rmse"]


def predictions(task: Task, seed: int) -> list[np.ndarray]:
    """Return the predictions for the test rows after each of ``PARTS`` equal parts of the rounds."""
    options = TrainOptions(hyperparameters={"seed": seed})
    model = training.stage(task.ref, options, storage_uri=task.storage_uri).run()
    trees = cast(XGBoostModel, stored.load(model.uri).model).booster
    ends = np.linspace(0, trees.num_boosted_rounds(), PARTS + 1)[1:].round().astype(int)
    features = task.test[0]
    return [trees[: int(end)].inplace_predict(features).astype("float64") for end in ends]


def rmse(task: Task, predicted: np.ndarray) -> float:
    value = METRIC.measure(task.test[1], predicted)
    assert value is not None
    return value


def is_promoted(task: Task, groups: np.ndarray, candidate: np.ndarray, champion: np.ndarray) -> bool:
    """Return whether the gate finds the candidate better than the champion."""
    rows, confidence = len(groups), EvaluateOptions().confidence
    evaluation = Evaluation.model_construct(
        metric="rmse",
        candidate=Metrics(rows=rows, values={"rmse": rmse(task, candidate)}),
        champion=Metrics(rows=rows, values={"rmse": rmse(task, champion)}),
        champion_error="",
        baseline=Metrics(rows=rows, values={"rmse": float(np.std(task.test[1]))}),
        slices=(),
        interval=comparison.interval(METRIC, task.test[1], candidate, champion, groups, confidence=confidence),
    )
    return all(check.passed for check in gate.checks(evaluation, None, PromoteOptions()))


def main(models: int = 21) -> None:
    with tempfile.TemporaryDirectory() as folder, ray_running():
        dataset = processing.stage("example://flights", "arr_delay", ProcessOptions(), storage_uri=folder).run()
        task = opened(dataset, folder)
        curves: list[list[np.ndarray]] = []
        for seed in range(models):
            curves.append(predictions(task, seed))
            sys.stderr.write(f"seed {seed}: RMSE {rmse(task, curves[-1][-1]):.4f}\n")
        _, _, times = split_rows.sampled(task.whole, ["test"], task.whole.split("test").rows)
    assert times is not None
    groups = comparison.groups_in_order(times)
    whole = [curve[-1] for curve in curves]
    values = [rmse(task, predicted) for predicted in whole]
    losses = [np.mean([rmse(task, curve[end]) for curve in curves]) / np.mean(values) - 1 for end in range(PARTS)]
    end = int(np.argmin(np.abs(np.array(losses) - WORSE)))
    random = np.random.default_rng(0)
    pairs = [tuple(random.permutation(pair)) for pair in itertools.combinations(range(models), 2)]
    equal = np.mean([is_promoted(task, groups, whole[a], whole[b]) for a, b in pairs])
    better = np.mean([is_promoted(task, groups, whole[a], curves[b][end]) for a, b in pairs])
    sys.stdout.write(f"{len(pairs)} pairs of {models} models, {len(groups):,} test rows\n")
    sys.stdout.write(f"RMSE {np.mean(values):.4f}, standard deviation {np.std(values, ddof=1) / np.mean(values):.2%}\n")
    sys.stdout.write(f"promoted over an equal: {equal:.1%}\n")
    sys.stdout.write(f"promoted over one that is {losses[end]:.2%} worse: {better:.1%}\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
