"""The URI of a dataset to its reference."""

from prefect import task

from rayworks import resources
from rayworks.data import manifest
from rayworks.records import DatasetRef


@task(name="open-dataset")
@resources(num_cpus=0)
def open_dataset(dataset_uri: str) -> DatasetRef:
    """Read the manifest that processing wrote."""
    return manifest.load(dataset_uri).ref()
