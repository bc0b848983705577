"""A small registered model that the tests of the registry, of serving and of evaluation share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rayworks.params import ProcessOptions, TrainOptions
from rayworks.records import DatasetRef, ModelRef


@dataclass(frozen=True)
class Trained:
    """A dataset of rides with a model of it, and where they are."""

    dataset: DatasetRef
    model: ModelRef
    storage_uri: str


@pytest.fixture(scope="session")
def rides(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from rayworks.data import processing
    from rayworks.training import training

    folder = tmp_path_factory.mktemp("rides")
    random, rows = np.random.default_rng(1), 1000
    table = pl.DataFrame(
        {
            "ride length": random.exponential(5, rows).round(2),
            "city": random.choice(["Rome", "Oslo"], rows),
            "passengers": random.integers(1, 5, rows),
            "night": random.random(rows) < 0.3,
            "start": pl.datetime_range(
                pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1, 23), "1s", eager=True
            ).gather_every(80)[:rows],
        }
    )
    fare = 3 + 2 * table["ride length"] + 4 * table["night"].cast(pl.Int8) + pl.Series(random.normal(0, 0.3, rows))
    table.with_columns(fare=fare).write_parquet(folder / "rides.parquet")
    storage_uri = str(folder / "storage")
    dataset = processing.stage(str(folder / "rides.parquet"), "fare", ProcessOptions(), storage_uri=storage_uri).run()
    quick = TrainOptions(rounds=30, hyperparameters={"learning_rate": 0.3})
    model = training.stage(dataset, quick, storage_uri=storage_uri).run()
    return Trained(dataset, model, storage_uri)


@pytest.fixture
def tracking_uri(tmp_path: Path) -> str:
    """An empty registry."""
    return f"sqlite:///{tmp_path}/mlflow.db"
