"""Open a dataset by its URI."""

from prefect import task

from rayworks import resources
from rayworks.data import manifest
from rayworks.records import DatasetRef


@task(name="open-dataset")
@resources(num_cpus=0, shared_storage=True)
def open_dataset(dataset_uri: str) -> DatasetRef:
    """Read the manifest of a dataset, and return the reference that other tasks take."""
    return manifest.load(dataset_uri).ref()
