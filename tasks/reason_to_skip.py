"""Decide whether a batch is worth a training."""

from datetime import UTC, datetime

from prefect import get_run_logger, task

from rayworks import resources
from rayworks.evaluation import champion_drift
from rayworks.monitoring import arrivals, new_data
from rayworks.monitoring.options import MonitorOptions, RetrainOptions
from rayworks.params import ProcessOptions
from rayworks.prefect_api.task_progress import run_stage
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
    reason = new_data.reason_to_skip(ledger, options, datetime.now(UTC))
    if reason or options.when != "on drift" or champion is None or champion.dataset is None:
        return reason
    name, reading = champion.version.name, MonitorOptions(format=process.format, encoding=process.encoding)
    uris = {"storage_uri": settings.storage_uri, "tracking_uri": settings.tracking_uri()}
    arrived = new_data.uris_of(ledger, batch)
    drift = run_stage(champion_drift.stage(name, source, reading, **uris, only=arrived))
    unlearned = new_data.unlearned_uris(ledger, batch)
    if drift.rows_kept < drift.minimum_rows and unlearned != arrived:  # small batches would never be enough
        drift = run_stage(champion_drift.stage(name, source, reading, **uris, only=unlearned))
    get_run_logger().info("Drift of batch %d: %s", batch, "; ".join(drift.why) or "none")
    if drift.drifted:
        return ""
    if drift.rows_kept >= drift.minimum_rows:
        return "not drifted: nothing is past its threshold"
    return f"{drift.rows_kept:,} valid rows since the last retraining are too few: {drift.minimum_rows:,} are needed"
