"""Store a small model, for later versions to prove that they can load it.

    uv run python -m tests.models.store_model

writes ``tests/models/stored/<version>/``: ``model/`` is an MLflow model of XGBoost trees, ``rows.parquet`` has rows,
and ``predictions.json`` has what the model predicts from them. Run it when a release changes how models are stored, and
commit the new folder. Never write to the folder of an earlier version: users have such models in their registries.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from rayworks import __version__
from rayworks.data import manifest, planning, processing, reading, split_rows
from rayworks.models import stored
from rayworks.models.tabular import TabularModel
from rayworks.models.xgboost import XGBoostModel, kinds, numbers
from rayworks.params import ProcessOptions
from rayworks.records import Dataset

STORED = Path(__file__).with_name("stored")
ROWS, ROUNDS = 400, 5


def passengers() -> pl.DataFrame:
    """A table with a column of each kind, with missing values, and a class to predict."""
    random = np.random.default_rng(0)
    age = random.uniform(1, 80, ROWS).round(1)
    fare = random.exponential(20, ROWS).round(2)
    sex = random.choice(["female", "male"], ROWS)
    boarded = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 6, 1), "8h", eager=True)[:ROWS]
    survived = (sex == "female") ^ (random.random(ROWS) < 0.2)
    return pl.DataFrame(
        {
            "age": [None if i % 9 == 0 else value for i, value in enumerate(age)],
            "fare [EUR]": fare,
            "cabins": random.integers(1, 4, ROWS),
            "sex": sex,
            "crew": random.random(ROWS) < 0.3,
            "boarded": boarded,
            "survived": np.where(survived, "yes", "no"),
        }
    )


def dataset_of(table: pl.DataFrame, target: str, folder: Path) -> Dataset:
    """Process ``table`` into ``folder`` in this process, without Ray."""
    table.write_parquet(folder / "table.parquet")
    files = reading.source_files(str(folder / "table.parquet"))
    chunks = reading.chunks(files)
    options = ProcessOptions.model_validate({"split": {"by": "random"}})
    plan = planning.make_plan(chunks, target, options, str(folder / "dataset"))
    counts = manifest.RowCounts()
    for chunk in chunks:
        counts.merge(processing.process_chunk(chunk, plan))
    return manifest.assemble(plan, counts, options, [file for file, _ in files], "passengers")


def trained(dataset: Dataset) -> XGBoostModel:
    """A few trees on the training rows."""
    import xgboost as xgb

    features, labels, _ = split_rows.sampled(dataset, ["train"], ROWS)
    matrix = xgb.DMatrix(numbers(features), labels, feature_types=kinds(features), enable_categorical=True)
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": 0}
    booster = xgb.train(parameters, matrix, num_boost_round=ROUNDS)
    return XGBoostModel(booster, dataset.target.problem, [feature.name for feature in dataset.feature_set.features])


def raw_rows(table: pl.DataFrame) -> pd.DataFrame:
    """A few raw rows to predict, with missing and unknown values among them."""
    rows = (
        table.drop("survived")
        .head(20)
        .with_columns(sex=pl.when(pl.int_range(20) == 7).then(pl.lit("unknown")).otherwise(pl.col("sex").head(20)))
    )
    return rows.to_pandas()


def store(folder: Path) -> None:
    """Write the model, the rows and the predictions into ``folder``."""
    table = passengers()
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = dataset_of(table, "survived", Path(scratch))
        model = trained(dataset)
        placed = dataset.model_copy(update={"uri": "/data/datasets/passengers"})  # a place that does not vary
        stored.save(model, str(folder / "model"), dataset=placed, metadata={"rayworks": __version__})
    _forget_this_machine(folder / "model" / "MLmodel")
    rows = raw_rows(table)
    rows.to_parquet(folder / "rows.parquet")
    predictions = TabularModel(dataset.feature_set, dataset.target, model).predict(rows)
    (folder / "predictions.json").write_text(json.dumps(predictions.to_dict(orient="list"), indent=1) + "\n")


def _forget_this_machine(description: Path) -> None:
    """Replace the path of ``pyfunc.py`` in this work tree by one that exists nowhere, as on a user's other machine."""
    installed = str(Path(stored.__file__).with_name("pyfunc.py"))
    description.write_text(description.read_text().replace(installed, "/site-packages/rayworks/models/pyfunc.py"))


if __name__ == "__main__":
    place = STORED / __version__
    if place.exists():
        sys.exit(f"{place} exists: a stored model is never replaced, because users have models that were stored so")
    store(place)
