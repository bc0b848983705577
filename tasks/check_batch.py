"""Check that the files of a batch can be learned from."""

from prefect import task

from rayworks import resources
from rayworks.data import manifest
from rayworks.monitoring import arrivals, new_data
from rayworks.records import DatasetRef
from rayworks.settings import Settings


@task(name="check-batch")
@resources(num_cpus=0, shared_storage=True)
def check_batch(watch: str, batch: int, dataset: DatasetRef) -> None:
    """Fail if no row of the batch is in the dataset: a model of the data before it would be no answer to it."""
    ledger = arrivals.read(arrivals.location(Settings().storage_uri, watch))
    new_data.require_rows(ledger, batch, manifest.load(dataset).unusable)
