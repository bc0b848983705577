"""What a task knows of the flow run around it: its name, how long its tasks took, and where to look at it."""

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings

from rayworks.records import ModelVersion


def flow_run_name() -> str:
    """The flow run's name and the start of its id: unique, and known to people."""
    run = _flow_run()
    return f"{run.name}-{str(run.id)[:8]}"


def _flow_run():
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("There is no flow run here: this is for tasks of one.")
    return context.flow_run


def task_seconds() -> dict[str, float]:
    """How long each task of the flow run that has ended took, by name."""
    here = FlowRunFilter.model_validate({"id": {"any_": [_flow_run().id]}})
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=here)
    return {run.name.rpartition("-")[0]: run.total_run_time.total_seconds() for run in runs if run.end_time}


def places(tracking_uri: str, version: ModelVersion | None = None) -> dict[str, str]:
    """Where else to look, once the run has ended: addresses, or the commands that open what has none."""
    ui = get_current_settings().ui_url
    found = {"Prefect": f"{ui}/runs/flow-run/{_flow_run().id}" if ui else "run: uv run prefect server start"}
    if tracking_uri.startswith("http"):
        model = f"/#/models/{version.name}/versions/{version.version}" if version else ""
        found["MLflow"] = tracking_uri.rstrip("/") + model
    else:
        found["MLflow"] = f"run: uv run mlflow ui --backend-store-uri {tracking_uri}"
    return found
