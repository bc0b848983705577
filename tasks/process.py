"""Turn raw data into a dataset."""

from collections.abc import Sequence

from prefect import task

from rayworks import resources
from rayworks.data import processing
from rayworks.params import ProcessOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import DatasetRef
from rayworks.settings import Settings


@task(name="process")
@resources(num_cpus=0, shared_storage=True)
def process(
    uri: str, target: str, options: ProcessOptions, name: str | None = None, only: Sequence[str] | None = None
) -> DatasetRef:
    """Validate, split and store raw data as Parquet, with features and statistics."""
    storage_uri = Settings().storage_uri
    return run_stage(processing.stage(uri, target, options, storage_uri=storage_uri, name=name, only=only))
