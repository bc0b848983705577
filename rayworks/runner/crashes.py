"""Reports task runs that ended without a state: Prefect shows them as running forever otherwise, or not at all."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from rayworks.errors import ClusterError
from rayworks.runner import _private
from rayworks.runner.in_flight import InFlight, SubmittedTaskRun
from rayworks.runner.session import RaySession

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

UPSTREAM_CRASHED = "A task run that it depends on has crashed."
BATCH = 200
"""Task runs in one request; the API returns no more."""


def report_crashed_task_runs(flow_run_id: UUID | None, in_flight: InFlight, session: RaySession) -> None:
    """Mark as Crashed the task runs that ended without a final state, and as NotReady those that depend on them.

    Args:
        flow_run_id: The flow run of the task runs.
        in_flight: The task runs, after their runner has ended.
        session: Explains the errors of Ray.
    """
    if not in_flight.crashed:
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter

    states = _States(session)
    crashed = {task_run.id: states.of(task_run, error) for task_run, error in in_flight.crashed}
    with get_client(sync_client=True) as client:
        # An unfinished task run that the API does not know has never started: it gets no state.
        known = {task_run.id for task_run in in_flight.unfinished}
        ids = list(crashed)
        for first in range(0, len(ids), BATCH):
            batch = TaskRunFilter.model_validate({"id": {"any_": ids[first : first + BATCH]}})
            for run in client.read_task_runs(task_run_filter=batch):
                known.add(run.id)
                if run.state is None or not run.state.is_final():
                    client.set_task_run_state(run.id, crashed[run.id], force=True)
        for task_run, _ in in_flight.crashed:
            if task_run.id not in known:
                client.create_task_run(
                    task_run.task,
                    flow_run_id,
                    dynamic_key=str(task_run.id),
                    id=task_run.id,
                    name=f"{task_run.task.name}-{task_run.id.hex[:3]}",
                    state=crashed[task_run.id],
                )


def not_ready() -> "State[Any]":
    """Return the state of a task run that never started, since one that it depends on has crashed."""
    from prefect.states import Pending

    return Pending(name="NotReady", message=UPSTREAM_CRASHED)


class _States:
    """The states of crashed task runs. An explanation takes requests, so the same error of a task is explained once."""

    def __init__(self, session: RaySession) -> None:
        self._session = session
        self._explained: dict[tuple[str, str], ClusterError | None] = {}

    def of(self, task_run: SubmittedTaskRun, error: Exception | None) -> "State[Any]":
        from prefect.states import Crashed
        from ray.exceptions import TaskCancelledError

        if _private.lacks_upstream(error):
            return not_ready()
        explanation = None
        if error is not None and not isinstance(error, TaskCancelledError):
            explanation = self._explain(task_run.task.name, error)
        return Crashed(message=str(explanation or "Its Ray task was cancelled, or its worker process ended."))

    def _explain(self, task: str, error: Exception) -> ClusterError | None:
        key = task, str(error)
        if key not in self._explained:
            self._explained[key] = self._session.explain(task, error)
        return self._explained[key]
