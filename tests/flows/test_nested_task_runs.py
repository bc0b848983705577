"""Task runs that a task has submitted, and that go on when it has ended, belong to the flow run."""

import pytest
from prefect import task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from rayworks import resources
from tests.flows.flow_runs import end_process, nap, run, shown_task_runs, task_name
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("ray_for_flows")


def shown(flow_run_id: str) -> dict[str, str]:
    """Return the states of the task runs that the server shows of a flow run, by the names of their tasks."""
    with get_client(sync_client=True) as client:
        return {task_name(run): run["state_name"] for run in shown_task_runs(client, flow_run_id)}


def test_a_task_run_that_outlasts_the_one_that_submitted_it_ends_with_the_flow():
    import ray

    @task
    @resources(num_cpus=0)
    def child() -> None:
        nap.submit(600)

    @task
    @resources(num_cpus=0)
    def parent() -> None:
        child.submit().wait()

    def body() -> str:
        parent.submit().wait()
        flow_run_id = str(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        eventually(lambda: shown(flow_run_id).get("nap") == "Running", 60)
        return flow_run_id

    flow_run_id = run(body).result()
    ended = {"parent": "Completed", "child": "Completed", "nap": "Crashed"}
    eventually(lambda: shown(flow_run_id) == ended, 60, lambda: str(shown(flow_run_id)))
    eventually(lambda: ray.available_resources().get("CPU", 0) == 2, 60, "the nap goes on")


def test_a_task_run_whose_process_ended_is_shown_as_crashed_when_its_parent_has_ended_well():
    @task
    def parent() -> None:
        end_process.submit().wait()

    def body() -> str:
        parent.submit().wait()
        return str(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]

    flow_run_id = run(body).result()
    ended = {"parent": "Completed", "end_process": "Crashed"}
    eventually(lambda: shown(flow_run_id) == ended, 60, lambda: str(shown(flow_run_id)))
