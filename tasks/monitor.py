"""Compare new rows with those that the champion learned from."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import champion_drift
from rayworks.monitoring.drift_report import DriftReport
from rayworks.monitoring.options import MonitorOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.settings import Settings


@task(name="monitor")
@resources(num_cpus=0, shared_storage=True)
def monitor(name: str, source: str, options: MonitorOptions) -> DriftReport:
    """Read the new rows, and compare them by column, by prediction and by error."""
    settings = Settings()
    uris = {"storage_uri": settings.storage_uri, "tracking_uri": settings.tracking_uri()}
    return run_stage(champion_drift.stage(name, source, options, **uris))
