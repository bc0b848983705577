"""Flow runs that the Prefect worker starts: cancelled, evicted, killed, retried, or without what they need."""

from collections.abc import Callable
from datetime import datetime

import pytest

from tests.cluster.installation import Installation
from tests.cluster.kubernetes_access import START_SECONDS
from tests.cluster.runs import TWO_RENEWALS_SECONDS, FlowRun
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800), pytest.mark.minutes(3)]

StartFlowRun = Callable[..., FlowRun]


@pytest.mark.xdist_group("prefect-server")
@pytest.mark.minutes(5)
def test_a_run_works_on_while_the_prefect_server_restarts(runs_over_a_restart: list[FlowRun]):
    assert runs_over_a_restart[0].state()["type"] == "RUNNING"


@pytest.mark.xdist_group("prefect-server")
@pytest.mark.minutes(5)
def test_a_run_whose_pod_is_evicted_while_the_prefect_server_restarts_continues_by_itself_at_its_unfinished_stage(
    runs_over_a_restart: list[FlowRun],
):
    run = runs_over_a_restart[1]
    eventually(lambda: run.state()["type"] == "COMPLETED", START_SECONDS, "it did not complete", every=1)
    assert (run.count("first.started"), run.count("second.started")) == (1, 2)
    run.ray.assert_deleted()


@pytest.mark.last
@pytest.mark.minutes(7)
def test_a_run_outlives_a_restart_of_the_prefect_server_by_two_renewals_of_its_lease(
    runs_over_a_restart: list[FlowRun],
):
    run = runs_over_a_restart[0]
    assert run.wait_for_end(TWO_RENEWALS_SECONDS) == "COMPLETED", run.log()
    assert "renewal failed" not in run.log()
    # The server stores the states of task runs a moment later than that of their flow run.
    expected = {"first": "COMPLETED", "second": "COMPLETED"}
    eventually(lambda: run.task_runs() == expected, 60, lambda: str(run.task_runs()), every=1)
    run.ray.assert_deleted()


def test_a_run_that_is_cancelled_in_the_ui_leaves_no_cluster_behind(start_flow_run: StartFlowRun):
    run = start_flow_run(600)
    run.wait_for("second.started")
    run.set_state(type="CANCELLING")
    assert run.wait_for_end() == "CANCELLED"
    run.ray.assert_deleted()


def test_a_run_that_was_killed_is_retried_from_its_unfinished_stage(
    installation: Installation, start_flow_run: StartFlowRun
):
    run = start_flow_run(600)
    run.wait_for("second.started")
    [pod] = run.pods()
    # No signal from within a pod ends its first process. It sees the others end, as when the kernel needs their memory.
    others = "[int(pid) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())]"
    program = f"import os; [os.kill(pid, 9) for pid in {others}]"
    installation.namespace.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", program)
    assert run.wait_for_end() == "CRASHED"
    run.set_state(type="SCHEDULED", name="AwaitingRetry")
    eventually(lambda: run.state()["type"] == "RUNNING", START_SECONDS, "it did not run again", every=1)
    assert run.wait_for_end() == "COMPLETED", run.log()
    assert run.count("first.started") == 1
    run.ray.assert_deleted()


def test_a_run_whose_ray_cannot_start_fails_within_a_minute_and_its_message_names_the_reason(
    image: str, start_flow_run: StartFlowRun
):
    head = start_flow_run(1, RAYWORKS_IMAGE=f"{image.rpartition('/')[0]}/absent:1")
    worker = start_flow_run(1, workers={"nodeSelector": {"disk": "absent"}})
    for run, words in (
        (head, ("-head-", "ImageNotFound", "absent:1", "imagePullSecrets")),
        (worker, ("-cpu-worker-", "UnmatchedAffinity", "didn't match Pod's node affinity/selector", "nodeSelector")),
    ):
        assert run.wait_for_end() == "FAILED", run.log()
        message = str(run.state()["message"])
        assert [word for word in words if word not in message] == [], message
        assert words[1] in run.log()
    created = next(time for time, line in head.log_lines() if "Created RayCluster" in line)
    assert (datetime.fromisoformat(head.state()["timestamp"]) - created).total_seconds() < 60
    assert worker.count("first.started") == 1
    for run in (head, worker):
        run.ray.assert_deleted()
