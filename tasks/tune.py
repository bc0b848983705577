"""A dataset to the best hyperparameters within a budget."""

from typing import Any

from prefect import task

from rayworks import resources, storage
from rayworks.params import TrainOptions, TuneOptions
from rayworks.prefect_api.task_progress import TaskProgress, reused
from rayworks.records import DatasetRef, TuneResult
from rayworks.settings import Settings
from rayworks.training import tuning


@task(name="tune")
@resources(num_cpus=0)
def tune(dataset: DatasetRef, options: TuneOptions, train: TrainOptions) -> TuneResult | Any | None:
    """Search hyperparameters for the loop of ``train``; nothing when no trials are asked for, or there is nothing to search."""
    if options.trials == 0 or not tuning.space_of(options, train.loop):
        return None
    storage_uri = Settings().storage_uri
    where = tuning.location(dataset, options, train.loop, train.hyperparameters, storage_uri=storage_uri)
    manifest = storage.join(where, tuning.MANIFEST)
    if storage.exists(manifest):
        return reused(storage.read_record(manifest, TuneResult), where)
    return tuning.tune(
        dataset,
        options,
        loop=train.loop,
        hyperparameters=train.hyperparameters,
        storage_uri=storage_uri,
        progress=TaskProgress(),
    )
