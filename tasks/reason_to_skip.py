"""Decide whether a batch is worth a training."""

from datetime import UTC, datetime

from prefect import get_run_logger, task

from rayworks import resources
from rayworks.data import manifest
from rayworks.evaluation import champion_drift
from rayworks.monitoring import arrivals, new_data
from rayworks.monitoring.options import MonitorOptions, RetrainOptions
from rayworks.params import ProcessOptions
from rayworks.prefect_api.task_progress import TaskProgress
from rayworks.records import Champion
from rayworks.settings import Settings


@task(name="reason-to-skip")
@resources(num_cpus=0, shared_storage=True)
def reason_to_skip(
    watch: str, batch: int, source: str, champion: Champion | None, process: ProcessOptions, options: RetrainOptions
) -> str:
    """Return why nothing is trained for a batch; empty if it is. Without a champion there is nothing to drift from."""
    settings = Settings()
    ledger = arrivals.read(arrivals.location(settings.storage_uri, watch))
    if champion and champion.dataset and new_data.is_learned(ledger, batch, manifest.load(champion.dataset).sources):
        return f"version {champion.version.version}, the champion, has learned from it already"
    reason = new_data.reason_to_skip(ledger, options, datetime.now(UTC))
    if reason or options.when != "on drift" or champion is None or champion.dataset is None:
        return reason
    monitor = MonitorOptions(format=process.format, encoding=process.encoding)
    uris = {"storage_uri": settings.storage_uri, "tracking_uri": settings.tracking_uri()}
    for files in new_data.uris_to_compare(ledger, batch):
        stage = champion_drift.stage(champion.version.name, source, monitor, only=files, **uris)
        drift = stage.run(TaskProgress())  # found again where the batch is tried again
        reason = new_data.reason_by_drift(drift)
        get_run_logger().info("Batch %d, %d files: %s", batch, len(files), reason or "; ".join(drift.why))
        if drift.rows_kept >= drift.minimum_rows:
            break
    return reason
