"""Compare new data with those that the champion learned from."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.monitoring.drift_report import DriftSummary
from rayworks.monitoring.options import MonitorOptions, NewRowsUri
from rayworks.params import ModelName
from tasks.monitor import monitor as monitor_task
from tasks.report_drift import report_drift


@flow(name="monitor", task_runner=RayTaskRunner())
def monitor(
    name: ModelName,
    source: NewRowsUri,
    options: Annotated[MonitorOptions, parameter("Options")] = MonitorOptions(),
) -> DriftSummary:
    """Compare new rows with those that the champion learned from: by column, prediction and, with labels, error."""
    report = monitor_task.submit(name, source, options).result()
    return report_drift.submit(report).result()


if __name__ == "__main__":
    run(monitor)
