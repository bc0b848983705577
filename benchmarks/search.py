"""Search and training of the flights, beside the same trials by bare XGBoost and Optuna on the same cores.

Usage: ``python benchmarks/search.py [repeats]``. Each side is a process of its own, with all that it starts. The bare
side tries the points that rayworks has tried, on the same rows and folds, in as many processes as there are cores, with
a matrix for each fold and process; then it trains three times as rayworks does, with as many threads as there are
cores. It stores nothing, and shows no progress.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

SIDES = ("rayworks", "bare")
PATIENCE, ROUNDS = 50, 2000


def rayworks(folder: Path) -> dict[str, Any]:
    """Search and train on embedded Ray, and return the points and the best round."""
    from rayworks.cluster import places
    from rayworks.cluster.embedded import EmbeddedRay
    from rayworks.params import TrainOptions, TuneOptions
    from rayworks.training import training, tuning

    places.prepare()
    ray = EmbeddedRay()
    ray.acquire({}, {"include_dashboard": False, "log_to_driver": False})
    reference, options = dataset(folder).ref(), TrainOptions(rounds=ROUNDS, early_stopping_rounds=PATIENCE)
    with tempfile.TemporaryDirectory() as storage_uri:
        search = tuning.stage(reference, TuneOptions(), options, storage_uri=storage_uri).run()
        chosen = search.best.hyperparameters
        model = training.stage(reference, options, storage_uri=storage_uri, hyperparameters=chosen).run()
    ray.release()
    points = [trial.hyperparameters for trial in search.trials]
    values = [trial.metric for trial in search.trials]
    return {"points": points, "chosen": chosen, "trials": values, "rounds": model.refit_rounds}


def bare(folder: Path) -> dict[str, Any]:
    """Try the same points and train with the same parameters."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = json.loads((folder / "rayworks.json").read_text())
    study = optuna.create_study()
    for point in given["points"]:
        study.enqueue_trial(point)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        asked = [(study.ask(), point) for point in given["points"]]
        running = [
            (trial, [pool.submit(fold_error, folder, point, fold) for fold in range(len(sample(folder)[2]))])
            for trial, point in asked
        ]
        for trial, folds in running:
            values = [value for fold in folds for value in fold.result()]
            study.tell(trial, sum(values) / len(values))
    return {"trials": [trial.value for trial in study.trials], "rounds": trained(folder, given["chosen"])}


def dataset(folder: Path) -> Any:
    from rayworks import storage
    from rayworks.records import Dataset

    return storage.read_record((folder / "dataset").read_text(), Dataset)


@cache
def sample(folder: Path) -> Any:
    from rayworks.data import folds, split_rows
    from rayworks.params import TuneOptions

    data = dataset(folder)
    features, labels, values = split_rows.sampled(data, ("train", "validation"), TuneOptions().max_rows)
    train, validation = (data.split(name).rows for name in ("train", "validation"))
    share = validation / (train + validation)
    return features, labels, folds.of(data.split_method, values, len(labels), share)


@cache
def fold_matrices(folder: Path, fold: int) -> Any:
    import numpy as np
    import xgboost as xgb

    features, labels, folds = sample(folder)
    rows = (folds[fold].train, np.concatenate(folds[fold].validation))
    train = xgb.QuantileDMatrix(features.iloc[rows[0]], labels[rows[0]], enable_categorical=True, nthread=1)
    held = xgb.QuantileDMatrix(features.iloc[rows[1]], labels[rows[1]], enable_categorical=True, nthread=1, ref=train)
    return train, held


def fold_error(folder: Path, point: dict[str, Any], fold: int) -> list[float]:
    """The RMSE on each block of a fold."""
    import numpy as np

    _, labels, folds = sample(folder)
    booster = boosted(point, *fold_matrices(folder, fold), threads=1)
    predicted = booster.predict(fold_matrices(folder, fold)[1], iteration_range=(0, booster.best_iteration + 1))
    ends = np.cumsum([len(block) for block in folds[fold].validation])[:-1]
    parts = zip(folds[fold].validation, np.split(predicted, ends), strict=True)
    return [float(((labels[block] - part) ** 2).mean() ** 0.5) for block, part in parts]


def boosted(point: dict[str, Any], train: Any, held: Any, *, threads: int, rounds: int = ROUNDS) -> Any:
    import xgboost as xgb

    from rayworks.training.loops.xgboost import DEFAULTS

    stops = {"early_stopping_rounds": PATIENCE} if held else {}
    evals = [(train, "train"), *([(held, "validation")] if held else [])]
    parameters = {**DEFAULTS, **point, "tree_method": "hist", "nthread": threads, "eval_metric": "rmse"}
    return xgb.train(parameters, train, rounds, evals=evals, verbose_eval=False, **stops)


def trained(folder: Path, chosen: dict[str, Any]) -> int:
    """Train on the training rows, on an earlier part of them, and on all rows; return the rounds of the last."""
    import numpy as np
    import pandas as pd
    import xgboost as xgb

    from rayworks.data import split_rows

    data, threads = dataset(folder), os.cpu_count() or 1
    origin = split_rows.earlier_origin(data)
    assert origin, "the flights are split by time"

    def matrix(parts: list[Any], ref: Any = None) -> Any:
        features, labels = zip(*parts, strict=True)
        return xgb.QuantileDMatrix(
            pd.concat(features), np.concatenate(labels), enable_categorical=True, nthread=threads, ref=ref
        )

    per_row: list[float] = []
    for read in (split_rows.encoded, lambda data, part: split_rows.encoded_at(data, origin, part)):
        train = matrix(list(read(data, "train")))
        held = matrix(list(read(data, "validation")), train)
        per_row.append((boosted(chosen, train, held, threads=threads).best_iteration + 1) / train.num_row())
    every = matrix([*split_rows.encoded(data, "train"), *split_rows.encoded(data, "validation")])
    rounds = math.ceil(sum(per_row) / len(per_row) * every.num_row())
    boosted(chosen, every, None, threads=threads, rounds=rounds)
    return rounds


def main(repeats: int = 1) -> None:
    from rayworks import parallel
    from rayworks.data import processing
    from rayworks.params import ProcessOptions

    parallel.map_unordered = lambda function, items, **_: map(function, items)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage = processing.stage("example://flights", "arr_delay", ProcessOptions(), storage_uri=scratch)
        (folder / "dataset").write_text(stage.run().uri + "/dataset.json")
        sys.stdout.write("| | seconds | trials | rounds of the last model |\n|---|---|---|---|\n")
        for side in SIDES * repeats:
            started = time.perf_counter()
            subprocess.run([sys.executable, __file__, side, scratch], check=True)
            seconds = time.perf_counter() - started
            result = json.loads((folder / f"{side}.json").read_text())
            trials = ", ".join(f"{value:.2f}" for value in result["trials"])
            sys.stdout.write(f"| {side} | {seconds:.1f} | {trials} | {result['rounds']} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        side, folder = sys.argv[1], Path(sys.argv[2])
        result = {"rayworks": rayworks, "bare": bare}[side](folder)
        (folder / f"{side}.json").write_text(json.dumps(result))
    else:
        main(*map(int, sys.argv[1:]))
