"""Look for new data, and start a retraining for each batch of them."""

from typing import Any

from prefect import get_run_logger, task

from rayworks import storage
from rayworks.monitoring import arrivals, new_data, watching
from rayworks.monitoring.arrivals import Batch, BatchResult
from rayworks.monitoring.options import WatchOptions
from rayworks.params import ProcessOptions
from rayworks.prefect_api import deployment_runs, looks, notifications
from rayworks.prefect_api.run_log import attach_run_log
from rayworks.settings import Settings


@task(name="watch")
def watch(name: str, source: str, options: WatchOptions, retrain: dict[str, Any]) -> list[str]:
    """Take all steps that are due, and return what was done.

    Args:
        retrain: Parameters of the flow ``retrain``.

    Raises:
        ParameterError: At the first look, the first file does not have the target.
        StorageError: The source cannot be listed.
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

    def failed(result: BatchResult) -> None:
        notifications.tell(f"Batch {result.batch} of {name} failed", f"{result.reason}\nIts files arrived at {source}")

    attach_run_log()  # this flow has no RayTaskRunner, which does it for others
    looks.cancel_late(name)
    uri = arrivals.location(Settings().storage_uri, name)
    process = ProcessOptions.model_validate(retrain["process"])
    if not storage.exists(uri):  # the first look
        new_data.check_target(new_data.listed(source, process.format), retrain["target"], process)
    looks.answer(name)
    state = deployment_runs.state
    lines = watching.look(uri, source, options, file_format=process.format, start=start, state=state, failed=failed)
    for line in lines:
        get_run_logger().info(line)
    return lines
