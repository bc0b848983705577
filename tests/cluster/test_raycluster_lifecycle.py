"""Runs on a RayCluster of their own, or a shared one: what they leave, and what the loss of a pod costs them."""

import re
from collections.abc import Callable

import pytest

from tests.cluster.installation import Installation
from tests.cluster.runs import SWEEP_SECONDS, JobRun

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800), pytest.mark.minutes(2)]

StartJob = Callable[..., JobRun]


def test_a_run_creates_its_cluster_scales_it_from_zero_and_leaves_only_its_logs(
    installation: Installation, start_job: StartJob
):
    run = start_job("1", has_dashboard=True)
    assert run.wait_for_end(), run.log()
    log = run.log()
    run.ray.assert_deleted()
    assert "Created RayCluster" in log
    assert "The Ray dashboard is at" in log
    folder = re.search(r"Its logs and events are in (\S+)", log)
    assert folder, log
    files = installation.on_storage(f"cd {folder[1]} && find . -type f -size +0")
    for name in (
        "raycluster.json",
        "pods.json",
        "events.txt",
        "tasks.json",
        "ray-head.log",
        "ray-worker.log",
        "/worker-",
    ):
        assert name in files


def test_a_run_that_fails_leaves_no_cluster_behind(start_job: StartJob):
    run = start_job("1", "fail")
    assert not run.wait_for_end()
    assert "the flow fails" in run.log()
    assert "Created RayCluster" in run.log()
    assert "dashboard" not in run.log()  # its head has none
    run.ray.assert_deleted()


def test_a_cancelled_run_leaves_no_cluster_behind(installation: Installation, start_job: StartJob):
    run = start_job("600")
    run.wait_for("second.started")
    # What the Prefect worker does when a run is cancelled.
    installation.namespace.kubectl("delete", "job", run.name, "--cascade=foreground", "--wait=false")
    run.ray.assert_deleted()


def test_a_killed_run_leaves_no_cluster_behind(start_job: StartJob):
    run = start_job("600")
    run.wait_for("second.started")
    run.kill()
    run.ray.assert_deleted()


@pytest.mark.minutes(3)
def test_the_sweep_deletes_what_a_killed_run_left_and_spares_what_is_in_use(start_job: StartJob):
    in_use = start_job("600")
    # Without its Job as an owner, so that Kubernetes does not delete its cluster by itself.
    killed = start_job("600", RAYWORKS_JOB_NAME="", RAYWORKS_JOB_UID="")
    for run in (in_use, killed):
        run.wait_for("first.ended")
        assert len(run.ray.clusters()) == 1
    killed.kill()
    killed.ray.assert_deleted(SWEEP_SECONDS)
    assert len(in_use.ray.clusters()) == 1
    in_use.wait_for("second.started")


@pytest.mark.minutes(4)
def test_two_runs_that_start_together_share_one_cluster_which_is_deleted_when_it_was_idle(start_job: StartJob):
    idle = {"RAYWORKS_RAY_IDLE_SECONDS": "60"}  # the third run starts within it
    first = start_job("5", **idle)
    second = start_job("5", cluster_name=first.cluster_name, **idle)
    for run in (first, second):
        assert run.wait_for_end(), run.log()
    assert sum("Created RayCluster" in run.log() for run in (first, second)) == 1
    assert len(first.ray.clusters()) == 1
    third = start_job("1", cluster_name=first.cluster_name, **idle)
    assert third.wait_for_end(), third.log()
    assert "Using the shared RayCluster" in third.log()
    first.ray.assert_deleted(60 + SWEEP_SECONDS)


def test_a_lost_head_costs_the_stage_that_ran_and_no_finished_one(start_job: StartJob):
    run = start_job("600")
    run.wait_for("second.started")
    run.ray.kill_pods("head")
    assert run.wait_for_end(), run.log()
    assert (run.count("first.started"), run.count("second.started")) == (1, 2)
    assert "The Ray head is lost" in run.log()
    run.ray.assert_deleted()


def test_a_lost_worker_costs_what_it_worked_on(start_job: StartJob):
    run = start_job("600")
    run.wait_for("second.started")
    run.ray.kill_pods("worker")
    assert run.wait_for_end(), run.log()
    assert (run.count("first.started"), run.count("second.started")) == (1, 2)
