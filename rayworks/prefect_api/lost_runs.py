"""Flow runs whose process ended without a report, for example with its node. Prefect shows them as running forever."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

EVICTION_SECONDS = 10.0
"""How much sooner Prefect may notice the end of a pod than the pod that is told to end."""


def report_crashed_flow_run(flow_run_id: str, last_seen: datetime) -> str | None:
    """Mark a flow run as Crashed if it had a process at ``last_seen`` and has not changed its state since.

    Args:
        flow_run_id: ID of the flow run.
        last_seen: When its process was last known to work, with a time zone.

    Returns:
        The name of the flow run; None when it has ended, has started again, or is not known to the server.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    active = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
    with get_client(sync_client=True) as client:
        try:
            flow_run = client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return None
        state = flow_run.state
        if state is None or state.type not in active or state.timestamp > last_seen:
            return None
        message = f"No sign of the run since {last_seen:%H:%M:%S} UTC: its pod was killed, or its node is lost."
        client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
    return flow_run.name


def report_crashed_runs_of_pool(
    pool: str, worker: str, alive: Collection[str] = (), before: datetime | None = None
) -> None:
    """Mark the runs of a work pool as Crashed that have not ended, although nothing can be running them.

    Such runs are left where the machine was switched off, and where a process ended while the Prefect server was away.
    Does nothing if the pool has other workers.

    Args:
        pool: The name of the work pool.
        worker: The name of its worker.
        alive: The IDs of the flow runs that have a process.
        before: Only runs that have been in their state since before this time, with a time zone: the worker is about to
            start a process for others. None: all runs.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        WorkerFilter,
        WorkerFilterStatus,
        WorkPoolFilter,
    )
    from prefect.states import Crashed

    active = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}})
    of_pool = WorkPoolFilter.model_validate({"name": {"any_": [pool]}})
    with get_client(sync_client=True) as client:
        workers = client.read_workers_for_work_pool(pool, WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"])))
        if {found.name for found in workers} - {worker}:
            return
        for flow_run in client.read_flow_runs(flow_run_filter=active, work_pool_filter=of_pool):
            state = flow_run.state
            is_older = before is None or (state is not None and state.timestamp < before)
            if is_older and str(flow_run.id) not in alive:
                message = "Its process ended without a report: the machine was switched off, or the server was away."
                client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)


def is_given_up(flow_run: "FlowRun", job: str | None, now: datetime) -> bool:
    """Return whether a flow run is no longer that of a pod that is told to end: the pod must not schedule it again.

    It is when the pod's node was out of reach: the run was reported as Crashed meanwhile, and may be retried by another
    Job. Prefect schedules it again when the node is back (``prefect flow-run execute``, Prefect 3.8.8).

    Args:
        flow_run: The flow run as the server has it.
        job: The name of the pod's Job. None: it is not known.
        now: When the pod was told to end, with a time zone.
    """
    state, of_job = flow_run.state, (flow_run.infrastructure_pid or "").rpartition(":")[2]
    if job and of_job and of_job != job:
        return True
    if state is None or not state.is_final():
        return False
    return not state.is_crashed() or now - state.timestamp > timedelta(seconds=EVICTION_SECONDS)
