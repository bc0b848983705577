"""The URI of a dataset to its reference."""

from prefect import task

from rayworks.data import processing
from rayworks.records import DatasetRef
from rayworks.runner.task_runner import resources


@task(name="open-dataset")
@resources(num_cpus=0)
def open_dataset(dataset_uri: str) -> DatasetRef:
    """Read the manifest that processing wrote."""
    return processing.load(dataset_uri).ref()
