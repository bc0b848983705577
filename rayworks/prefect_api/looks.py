"""Events that let a watch look at once. They may be lost or doubled: the ledger is the truth."""

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rayworks.prefect_api import automations

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

EVENT = "rayworks.look"


def resource_id(watch: str) -> str:
    """Return the id of the resource that an event for a watch names."""
    return f"rayworks.watch.{watch}"


def ask(watch: str) -> None:
    """Emit the event that starts a look of a watch at once. Where it cannot be emitted, the log says so."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import Event, Resource

    event = Event(event=EVENT, resource=Resource({"prefect.resource.id": resource_id(watch)}))
    try:
        with get_client(sync_client=True) as client:  # confirmed, unlike `emit_event`
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        logger.warning("The watch %s was not asked to look at once: its schedule will. %s", watch, error)


def cancel_late(watch: str) -> None:
    """Cancel the looks of a watch that should have begun by now: this flow run, which has not looked yet, does so.

    They pile up while no worker runs, or where a schedule is faster than a look. Does nothing for a flow run without a
    deployment. Where they cannot be cancelled, the log says so, and they look as well.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled

    run = _run_of_deployment()
    if run is None:
        return
    late = {
        "deployment_id": {"any_": [str(run.deployment_id)]},
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": datetime.now(UTC).isoformat()},
    }
    message = f"The look {run.name}, which began at {run.start_time:%H:%M:%S} UTC, did what this one was to do."
    try:
        with get_client(sync_client=True) as client:
            for each in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(late)):
                if each.parameters.get("watch") == watch:
                    with suppress(ObjectNotFound):  # deleted since then
                        client.set_flow_run_state(each.id, Cancelled(message=message))
    except httpx.HTTPError as error:
        logger.warning("Late looks of the watch %s were not cancelled: they will look too. %s", watch, error)


def answer(watch: str) -> None:
    """Let events for a watch start the deployment of this flow run with the parameters of this flow run.

    Makes or changes the automation ``rayworks watch NAME``. Does nothing for a flow run without a deployment. Where the
    automation cannot be made, the log says so.
    """
    import httpx
    from prefect.automations import AutomationCore, EventTrigger, Posture, RunDeployment

    run = _run_of_deployment()
    if run is None:
        return
    start = RunDeployment(
        source="selected", deployment_id=run.deployment_id, parameters=run.parameters, job_variables=None
    )
    wanted = AutomationCore(
        name=f"rayworks watch {watch}",
        description=f"Starts a look of the watch {watch} when the event {EVENT} arrives. Its next look makes it again.",
        trigger=EventTrigger(
            expect={EVENT}, match={"prefect.resource.id": resource_id(watch)}, posture=Posture.Reactive, threshold=1
        ),
        actions=[start],
    )
    try:
        automations.put(wanted)
    except httpx.HTTPError as error:
        logger.warning("Events do not start the watch %s: its schedule does. %s", watch, error)


def _run_of_deployment() -> "FlowRun | None":
    """Return this flow run; None if it has no deployment."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run and run.deployment_id else None
