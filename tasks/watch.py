"""Look for new data, and start a retraining for each batch of them."""

from typing import Any

from prefect import get_run_logger, task

from rayworks.monitoring import arrivals, watching
from rayworks.monitoring.arrivals import Batch
from rayworks.monitoring.options import WatchOptions
from rayworks.prefect_api import deployment_runs
from rayworks.settings import Settings


@task(name="watch")
def watch(name: str, source: str, options: WatchOptions, retrain: dict[str, Any]) -> list[str]:
    """Take all steps that are due, and return what was done.

    Args:
        retrain: Parameters of the flow ``retrain``.
    """

    def start(batch: Batch, attempt: int) -> str:
        arrived = [file.uri for file in batch.objects[:20]]  # for people: the ledger has all
        return deployment_runs.start(
            "retrain/retrain",
            {"watch": name, "batch": batch.number, "source": source, "arrived": arrived, **retrain},
            # With the time of the batch: a ledger that was deleted must not find the runs of the one before it.
            key=f"{name}/{batch.number}/{batch.created:%Y%m%dT%H%M%S%f}/{attempt}",
            name=f"{name}-batch-{batch.number}",
        )

    uri = arrivals.location(Settings().storage_uri, name)
    file_format = retrain["process"]["format"]
    lines = watching.look(uri, source, options, file_format=file_format, start=start, state=deployment_runs.state)
    for line in lines:
        get_run_logger().info(line)
    return lines
