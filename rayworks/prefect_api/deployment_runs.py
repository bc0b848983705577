"""Flow runs of deployments: start one once, and say what became of it."""

from typing import Any
from uuid import UUID

from rayworks.errors import ParameterError
from rayworks.monitoring.arrivals import RunState


def start(deployment: str, parameters: dict[str, Any], *, key: str, name: str) -> str:
    """Start a flow run of a deployment, and return its id. The same key returns the run that is there, in any state.

    Args:
        deployment: ``flow/deployment``.
        key: Prefect's idempotency key.
        name: The name of the flow run.

    Raises:
        ParameterError: There is no such deployment, or it does not take these parameters.
    """
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    try:
        run: Any = run_deployment(
            deployment, parameters=parameters, idempotency_key=key, flow_run_name=name, timeout=0, as_subflow=False
        )
    except ObjectNotFound as error:
        raise ParameterError(
            "there is no such deployment",
            where=deployment,
            remedy="On a laptop, start `uv run deployments/local.py`; on Kubernetes, the worker registers it",
        ) from error
    except PrefectHTTPStatusError as error:
        raise ParameterError(
            "the deployment cannot be run with these parameters",
            where=deployment,
            detail=error.response.text,
            remedy="Correct the parameters of the watch",
        ) from error
    return str(run.id)


def state(flow_run_id: str) -> RunState:
    """Return the state of a flow run. One that was deleted has failed."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            return RunState("failed", "its run was deleted")
    if found is None or not found.is_final():
        return RunState("active")
    kind = "completed" if found.is_completed() else "cancelled" if found.is_cancelled() else "failed"
    return RunState(kind, found.message or "", found.timestamp)
