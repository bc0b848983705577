"""A dataset to a model."""

from typing import Any

from prefect import task

from rayworks import resources, storage
from rayworks.params import TrainOptions
from rayworks.prefect_api.task_progress import TaskProgress, reused
from rayworks.records import DatasetRef, ModelRef, TuneResult
from rayworks.settings import Settings
from rayworks.training import training


@task(name="train")
@resources(num_cpus=0)
def train(dataset: DatasetRef, options: TrainOptions, tuned: TuneResult | None = None) -> ModelRef | Any:
    """Train with the hyperparameters of ``options``, over those that tuning found."""
    storage_uri = Settings().storage_uri
    found = tuned.best.hyperparameters if tuned else None
    where = training.location(dataset, options, found, storage_uri=storage_uri)
    manifest = storage.join(where, training.MANIFEST)
    if storage.exists(manifest):
        return reused(storage.read_record(manifest, ModelRef), where)
    return training.train(dataset, options, storage_uri=storage_uri, hyperparameters=found, progress=TaskProgress())
