"""A lost training worker costs the work since its last checkpoint, not the whole training."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rayworks.data import processing
from rayworks.params import ProcessOptions, TrainOptions
from rayworks.training import training

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(
    ("killed_in", "workers"),
    [("first", 1), ("earlier", 1), ("refit", 1), ("first", 2), ("refit", 2)],
    ids=["first", "earlier", "refit", "first-of-two", "refit-of-two"],
)
def test_a_killed_worker_resumes_from_its_checkpoint(killed_in: str, workers: int, tmp_path: Path):
    random = np.random.default_rng(0)
    features = random.normal(size=(2000, 3)).round(3)
    rows = pl.DataFrame(features, ["a", "b", "c"]).with_columns(y=pl.col("a") * pl.col("b"))
    if killed_in == "earlier":  # a pass of data that are split by time
        rows = rows.with_columns(time=pl.datetime(2025, 1, 1) + pl.duration(hours=pl.int_range(2000)))
    rows.write_csv(tmp_path / "data.csv")
    dataset = processing.stage(str(tmp_path / "data.csv"), "y", ProcessOptions(), storage_uri=str(tmp_path)).run()
    log = tmp_path / "rounds.log"
    options = TrainOptions(
        loop="tests.stages.example_loops:killed_once",
        rounds=12,
        early_stopping_rounds=12,
        checkpoint_seconds=0.01,
        workers=workers,
        hyperparameters={"log": str(log), "storage": str(tmp_path), "killed_in": killed_in},
    )
    model = training.stage(dataset, options, storage_uri=str(tmp_path)).run()
    rounds = [int(line) for line in log.read_text().split()]
    restarts = [later for earlier, later in itertools.pairwise(rounds) if later != earlier + 1]
    assert model.restarts == 1
    assert len(restarts) == 1
    assert restarts[0] > 1
    assert [point.round for point in model.curve] == list(range(1, 13))
    assert model.refit_rounds is not None
    assert rounds[-1] == (model.refit_rounds if killed_in == "refit" else 12)
