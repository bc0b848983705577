"""Find the files that a retraining learns from."""

from prefect import get_run_logger, task

from rayworks.monitoring import arrivals, new_data
from rayworks.monitoring.options import Window
from rayworks.params import ProcessOptions
from rayworks.settings import Settings


@task(name="arrived-files")
def arrived_files(watch: str, batch: int, source: str, process: ProcessOptions, window: Window) -> list[str]:
    """Return the URIs of the files of a batch, and of the batches before it that the window holds."""
    ledger = arrivals.read(arrivals.location(Settings().storage_uri, watch))
    uris = new_data.uris_to_learn(ledger, batch, new_data.listed(source, process.format), window)
    get_run_logger().info("Batch %d of %s: learns from %d files", batch, watch, len(uris))
    return list(uris)
