"""All stages on an object store: the data, what is made of them and the model's files lie there, the registry is a database."""

import io

import numpy as np
import polars as pl
import pytest

from rayworks import storage
from rayworks.params import EvaluateOptions, FloatRange, ProcessOptions, PromoteOptions, TrainOptions, TuneOptions
from rayworks.stages import evaluation, processing, registry, training, tuning
from tests.object_store import object_store


@pytest.fixture
def bucket():
    """An object store, and a Ray of its own: its workers have the environment of the process that starts it."""
    from rayworks.cluster import connection

    with object_store() as bucket:
        connection.prepare()
        ray = connection.EmbeddedRay()
        ray.acquire({}, {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200_000_000})
        yield bucket
        ray.release()


def test_data_on_an_object_store_become_a_champion_whose_files_are_there(bucket: str, tracking_uri: str):
    random = np.random.default_rng(0)
    for part in (1, 2):
        x = random.normal(size=400)
        table = pl.DataFrame({"x": x, "city": random.choice(["Rome", "Oslo"], 400), "fare": 3 * x + random.normal(0, 0.1, 400)})
        table.write_parquet(content := io.BytesIO())
        storage.write_bytes(f"{bucket}/raw data/{part}.parquet", content.getvalue())
    place = f"{bucket}/rayworks"
    dataset = processing.process(f"{bucket}/raw data/*.parquet", "fare", ProcessOptions(), storage_uri=place)
    search = TuneOptions(trials=2, rounds=10, space={"learning_rate": FloatRange(low=0.1, high=0.5)})
    loop = TrainOptions().loop
    tuned = tuning.tune(dataset, search, loop=loop, hyperparameters={}, storage_uri=place)
    model = training.train(
        dataset, TrainOptions(rounds=30, checkpoint_seconds=0.001), storage_uri=place, hyperparameters=tuned.best.hyperparameters
    )
    version = registry.register(model, tracking_uri=tracking_uri, storage_uri=place, tune=tuned)
    evaluated = evaluation.evaluate(
        version.uri, dataset, champion_uri=None, options=EvaluateOptions(minimum_slice_rows=20), storage_uri=place,
        tracking_uri=tracking_uri,
    )  # fmt: skip
    decision = registry.promote(version, evaluated, None, PromoteOptions(), tracking_uri=tracking_uri, storage_uri=place)
    assert decision.promoted, decision.reason
    assert {part.value for part in evaluated.slices} == {"Rome", "Oslo"}
    kept = {uri.removeprefix(f"{place}/").partition("/")[0] for uri, _ in storage.list_files(place)}
    assert kept == {"datasets", "tuning", "models", "mlflow", "evaluations", "decisions"}, "training leaves nothing but the model"
    assert not [uri for uri, _ in storage.list_files(place) if uri.endswith(".part")]
