"""The cost of training on Ray compared with bare ``xgboost.train``: the same rows, parameters, rounds and cores.

    python benchmarks/training.py [ROUNDS]

Each side runs in a separate process: bare, rayworks, bare. Both quantise the rows batch by batch, evaluate train and
validation after each round, check for early stopping (the patience is too long for it to happen) and save the model;
rayworks also stores the curve and writes checkpoints. If the bare runs differ, something else used the cores. The CPU
seconds are those of the process that boosts, and show the cost of boosting itself.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BACKEND = "xgboost"  # of the loop `timed`


class Clock:
    """Seconds and CPU seconds of the parts of a run."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.monotonic(), time.process_time()
        self.parts: dict[str, float] = {}

    def part(self, name: str) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self.parts[name], self.parts[f"{name}, CPU"] = wall - self.wall, cpu - self.cpu
        self.wall, self.cpu = wall, cpu


def bare(ref: Any, rounds: int, folder: str) -> dict[str, float]:
    """Read the rows, boost and save, without Ray."""
    import xgboost as xgb

    from rayworks.data import manifest, split_rows
    from rayworks.training.loop import LoopContext
    from rayworks.training.loops.xgboost import _matrices, _parameters

    class Context(LoopContext):
        def batches(self, split: Any, rows: int = 65_536) -> Any:
            for features, labels in split_rows.encoded(dataset, split):
                for start in range(0, len(labels), rows):
                    yield features.iloc[start : start + rows], labels[start : start + rows]

    dataset = manifest.load(ref)
    context = Context(dataset, {}, metric="rmse", rounds=rounds, patience=rounds, threads=os.cpu_count() or 1)
    clock = Clock()
    train, validation = _matrices(context, 256)
    clock.part("read")
    booster = xgb.train(
        _parameters(context),
        train,
        num_boost_round=rounds,
        evals=[(train, "train"), (validation, "validation")],
        verbose_eval=False,
        early_stopping_rounds=rounds,
    )
    clock.part("boost")
    booster[: booster.best_iteration + 1].save_model(Path(folder) / "bare.ubj")
    clock.part("save")
    return clock.parts


def timed(context: Any) -> Any:
    """Run the built-in loop, and write how long its parts took."""
    from rayworks.training.loops import xgboost

    log = Path(context.hyperparameters.pop("log"))
    matrices, clock = xgboost._matrices, Clock()

    def timed_matrices(*arguments: Any) -> Any:
        result = matrices(*arguments)
        clock.part("read")
        return result

    report, reports = context.report, []

    def timed_report(*arguments: Any, **options: Any) -> None:
        started = time.monotonic()
        report(*arguments, **options)
        reports.append(time.monotonic() - started)

    xgboost._matrices, context.report = timed_matrices, timed_report
    model = xgboost.train(context)
    clock.part("boost")
    log.write_text(json.dumps({**clock.parts, "reports": sum(reports), "longest report": max(reports)}))
    return model


def rayworks(ref: Any, rounds: int, folder: str) -> dict[str, float]:
    """Run the training stage with the built-in loop."""
    from rayworks.cluster import places
    from rayworks.cluster.embedded import EmbeddedRay
    from rayworks.params import TrainOptions
    from rayworks.training import training

    log = Path(folder) / "loop.json"
    options = TrainOptions(
        loop="benchmarks.training:timed",
        hyperparameters={"log": str(log)},
        rounds=rounds,
        early_stopping_rounds=rounds,
        refit=False,
    )
    places.prepare()
    ray = EmbeddedRay()
    ray.acquire({}, {"log_to_driver": False})
    started = time.monotonic()
    training.stage(ref, options, storage_uri=folder).run()
    total = time.monotonic() - started
    ray.release()
    parts = json.loads(log.read_text())
    return {**parts, "outside": total - parts["read"] - parts["boost"], "total": total}


def processed(folder: str) -> Any:
    """Process the flights."""
    from rayworks.cluster import places
    from rayworks.cluster.embedded import EmbeddedRay
    from rayworks.data import processing
    from rayworks.params import ProcessOptions

    places.prepare()
    ray = EmbeddedRay()
    ray.acquire({}, {"include_dashboard": False, "log_to_driver": False})
    ref = processing.stage("example://flights", "arr_delay", ProcessOptions(), storage_uri=folder).run()
    ray.release()
    return ref


def main(rounds: int = 2000) -> None:
    def alone(work: Callable[..., Any], *arguments: Any) -> Any:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(work, arguments)

    with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
        ref = alone(processed, folder)
        before, ours, after = (alone(side, ref, rounds, folder) for side in (bare, rayworks, bare))
    sys.stdout.write(f"{ref.rows_kept:,} rows, {rounds} rounds, {os.cpu_count()} cores\n\n")
    sys.stdout.write(
        "| seconds | bare, before | rayworks | bare, after | ratio to their mean |\n|---|---|---|---|---|\n"
    )
    for part in ("read", "boost", "boost, CPU"):
        ratio = 2 * ours[part] / (before[part] + after[part])
        sys.stdout.write(f"| {part} | {before[part]:.1f} | {ours[part]:.1f} | {after[part]:.1f} | {ratio:.2f} |\n")
    sys.stdout.write(f"| of it: reports and checkpoints | | {ours['reports']:.1f} | | |\n")
    saves = f"{before['save']:.1f} | {ours['outside']:.1f} | {after['save']:.1f}"
    sys.stdout.write(f"| all else: start of the worker, saving the model | {saves} | |\n")
    sys.stdout.write(json.dumps({"before": before, "rayworks": ours, "after": after}) + "\n")


if __name__ == "__main__":
    from benchmarks import training  # the processes import it by this name

    training.main(*(int(argument) for argument in sys.argv[1:]))
