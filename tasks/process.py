"""Raw data to a dataset."""

from typing import Any

from prefect import task

from rayworks import resources, storage
from rayworks.data import manifest, processing
from rayworks.params import ProcessOptions
from rayworks.prefect_api.task_progress import TaskProgress, reused
from rayworks.records import DatasetRef
from rayworks.settings import Settings


@task(name="process")
@resources(num_cpus=0)
def process(uri: str, target: str, options: ProcessOptions, name: str | None = None) -> DatasetRef | Any:
    """Validate, make features, split, and write Parquet."""
    storage_uri = Settings().storage_uri
    where = processing.location(uri, target, options, storage_uri=storage_uri, name=name)
    if storage.exists(storage.join(where, manifest.FILE)):
        return reused(manifest.load(where).ref(), where)
    return processing.process(uri, target, options, storage_uri=storage_uri, name=name, progress=TaskProgress())
