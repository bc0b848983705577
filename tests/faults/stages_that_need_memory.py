"""Stages whose nested work allocates all memory, always or until it was given enough.

python stages_that_need_memory.py FOLDER
"""

import functools
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
from too_much_memory import allocate_all

from rayworks import RayworksError, ray_running
from rayworks.data import processing
from rayworks.items import fan_out as items
from rayworks.items.options import FanOutOptions
from rayworks.items.sources import Inline
from rayworks.params import FloatRange, ProcessOptions, TrainOptions, TuneOptions
from rayworks.progress import silent
from rayworks.records import DatasetRef
from rayworks.training import training, tuning


class Zero:
    """Predicts 0."""

    def predict(self, features: Any) -> Any:
        import numpy as np

        return np.zeros(len(features))


def greedy(context: Any) -> Zero:
    """A training loop that needs more memory than there is."""
    context.report(1, validation=1.0)
    allocate_all()
    return Zero()


def save(number: int, folder: Path) -> None:
    (folder / "round").write_text(str(number))


def growing(context: Any) -> Zero:
    """A training loop that needs 0.2 GiB, and continues from its checkpoint when it has them."""
    import ray

    restored = context.restore()
    first = int((restored / "round").read_text()) if restored else 0
    for number in range(first + 1, 11):
        context.report(number, validation=1.0 / number, save=functools.partial(save, number))
        time.sleep(0.1)
        if number == 5 and ray.get_runtime_context().get_assigned_resources()["memory"] < 200_000_000:
            allocate_all()
    return Zero()


def features(rows: Any) -> Any:
    """A feature function that needs more memory than there is when it sees all rows."""
    if len(rows) > 5000:
        allocate_all()
    return rows.assign(double=rows["a"] * 2)


def process(folder: Path, **options: Any) -> DatasetRef:
    return processing.stage(
        str(folder / "numbers.parquet"), "y", ProcessOptions(**options), storage_uri=str(folder / "storage")
    ).run()


def item(number: int) -> int:
    """One of ten items needs more memory than there is."""
    if number == 7:
        allocate_all()
    return number


def fan_out(folder: Path) -> dict[str, Any]:
    inline = Inline(range(10))
    options = FanOutOptions(max_failures=1)
    result = items.of_source(item, inline, options, storage_uri=str(folder / "storage")).create(silent)
    return {"results": [number for _, number in result.results()], "failures": list(result.failures())}


def run(stage: str, folder: Path) -> Any:
    if stage == "fan_out":
        return fan_out(folder)
    if stage == "process":
        return process(folder, feature_function="stages_that_need_memory:features", sample_rows=1000)
    dataset, storage_uri = process(folder), str(folder / "storage")
    if stage == "tune":
        options = TuneOptions(trials=1, space={"a": FloatRange(low=0.0, high=1.0)})
        return tuning.stage(
            dataset, options, TrainOptions(loop="stages_that_need_memory:greedy"), storage_uri=storage_uri
        ).run()
    loop = f"stages_that_need_memory:{'growing' if stage == 'grow' else 'greedy'}"
    memory = {"memory_per_worker": 0.1, "max_memory_per_worker": 0.2} if stage == "grow" else {}
    options = TrainOptions(loop=loop, rounds=10, checkpoint_seconds=0.01, **memory)
    return training.stage(dataset, options, storage_uri=storage_uri).run()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    numbers = range(10_000)
    table = pl.DataFrame(
        {"a": [float(number % 97) for number in numbers], "y": [float(number % 89) for number in numbers]}
    )
    table.write_parquet(folder / "numbers.parquet")
    with ray_running(init_kwargs={"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}):
        for stage in ("train", "tune", "process", "grow", "fan_out"):
            try:
                sys.stdout.write(f"{stage}: {run(stage, folder)!r}\n")
            except RayworksError as error:
                sys.stdout.write(f"{stage}: {error}\n")
