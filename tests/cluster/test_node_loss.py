"""A node that fails under two runs at once: one loses its Ray head, the other its driver."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.installation import Installation, away_from
from tests.cluster.kubernetes_access import START_SECONDS
from tests.cluster.nodes import cordoned, lost_node, needs_node_loss
from tests.cluster.runs import SWEEP_SECONDS, FlowRun, JobRun
from tests.waiting import eventually

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.timeout(1800),
    pytest.mark.last,
    pytest.mark.minutes(5),
    needs_node_loss,
]


@dataclass(frozen=True)
class Losses:
    """Two runs that lost a node. Each ``result()`` raises what was not as it must be while the node was lost."""

    of_head: JobRun
    of_head_outcome: "Future[None]"
    of_driver: FlowRun
    of_driver_outcome: "Future[None]"


@pytest.fixture(scope="module")
def losses(installation: Installation) -> Iterator[Losses]:
    """A node is lost while the second stage of two runs works: it has the Ray head of one, the driver of the other."""
    cluster = installation.namespace.cluster
    first, lost, *others = cluster.node_names()
    with runs.jobs(installation) as start_job, runs.flow_runs(installation) as start_flow_run:
        job = start_job("600", node=first, pods={"affinity": away_from(first)})
        eventually(lambda: node_of(job.pods()), START_SECONDS, "the job has no pod", every=1)
        with cordoned(cluster, [first, *others]):
            flow_run = start_flow_run(600, pods={"affinity": away_from(lost)})
            for pods in (flow_run.pods, lambda: job.ray.pods("head")):
                node = eventually(lambda pods=pods: node_of(pods()), START_SECONDS, "a run has no pod", every=1)
                assert node == lost
        for run in (job, flow_run):
            run.wait_for("second.started")
        with lost_node(cluster, lost), ThreadPoolExecutor(max_workers=2) as pool:
            restarts, cleaned_up = pool.submit(assert_restarts, job), pool.submit(assert_is_cleaned_up, flow_run)
        yield Losses(job, restarts, flow_run, cleaned_up)


def node_of(pods: list[dict[str, Any]]) -> str | None:
    return pods[0]["spec"].get("nodeName") if pods else None


def assert_restarts(run: JobRun) -> None:
    assert run.wait_for_end(), run.log()
    assert (run.count("first.started"), run.count("second.started")) == (1, 2)
    eventually(lambda: not run.ray.clusters(), SWEEP_SECONDS, "a cluster is left", every=2)


def assert_is_cleaned_up(run: FlowRun) -> None:
    # The installation's own sweep finds that its Lease has expired.
    eventually(lambda: not run.ray.clusters(), SWEEP_SECONDS, "the cluster is left", every=2)
    assert run.wait_for_end(SWEEP_SECONDS) == "CRASHED"


def test_a_lost_node_with_the_head_costs_the_stage_that_ran(losses: Losses):
    losses.of_head_outcome.result()


def test_a_run_whose_node_is_lost_leaves_no_cluster_behind_and_is_shown_as_crashed(losses: Losses):
    losses.of_driver_outcome.result()
    losses.of_driver.ray.assert_deleted()
