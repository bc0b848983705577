"""The flow run around a task: its name, the durations of its tasks, and links to where it is shown."""

import re
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings

from rayworks.records import ModelVersion

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


def flow_run_name() -> str:
    """Return the flow run's name and the start of its id: unique, known to users, and fit for a file and a URL."""
    run = _flow_run()
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', run.name)}-{str(run.id)[:8]}"


def _flow_run() -> "FlowRun":
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("There is no flow run: only a task of a flow can call this.")
    return context.flow_run


def task_seconds() -> dict[str, float]:
    """Return how many seconds each task of the flow run took that has ended, by the name of the task."""
    this_run = FlowRunFilter.model_validate({"id": {"any_": [_flow_run().id]}})
    with get_client(sync_client=True) as client:
        task_runs = client.read_task_runs(flow_run_filter=this_run)
    return {run.name.rpartition("-")[0]: run.total_run_time.total_seconds() for run in task_runs if run.end_time}


def links(mlflow_address: str | None, tracking_uri: str, version: ModelVersion | None = None) -> dict[str, str]:
    """Return links to the flow run in Prefect and to the model in MLflow. Where there is no URL, return a command.

    Args:
        mlflow_address: Where browsers find MLflow.
        tracking_uri: MLflow's, for the command.
        version: The model version of the flow run, if it has one.
    """
    ui = get_current_settings().ui_url
    prefect = f"{ui}/runs/flow-run/{_flow_run().id}" if ui else "run: uv run prefect server start"
    if mlflow_address:
        model = f"/#/models/{version.name}/versions/{version.version}" if version else ""
        mlflow = mlflow_address + model
    else:
        mlflow = f"run: uv run mlflow ui --backend-store-uri {tracking_uri}"
    return {"Prefect": prefect, "MLflow": mlflow}
