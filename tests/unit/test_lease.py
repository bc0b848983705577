"""Which RayClusters the sweep deletes and which it leaves, by their Leases, and which flow runs it finds lost."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rayworks.cluster.kubernetes.lease import DriverLease, is_abandoned, lost_runs
from rayworks.cluster.kubernetes.sweep import runs_on_lost_nodes
from tests.waiting import eventually

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def cluster(created: float, idle: float | None = None, used: float | None = None) -> dict[str, Any]:
    annotations = {} if idle is None else {"rayworks.io/idle-seconds": str(idle)}
    if used is not None:
        annotations["rayworks.io/last-used"] = ago(used)
    return {"metadata": {"name": "one", "creationTimestamp": ago(created), "annotations": annotations}}


def lease(renewed: float, of: str = "one", run: str | None = None) -> dict[str, Any]:
    labels = {"rayworks.io/cluster": of} | ({"rayworks.io/flow-run-id": run} if run else {})
    return {"metadata": {"labels": labels}, "spec": {"renewTime": ago(renewed)}}


@pytest.mark.parametrize(
    ("raycluster", "leases", "abandoned"),
    [
        (cluster(3600), [lease(5)], False),
        (cluster(3600), [lease(500), lease(5)], False),
        (cluster(3600), [lease(90)], True),
        (cluster(3600), [], True),
        (cluster(20), [], False),
        (cluster(3600), [lease(5, of="another")], True),
        (cluster(3600, idle=600, used=90), [], False),
        (cluster(3600, idle=600, used=3000), [lease(5)], False),
        (cluster(3600, idle=600, used=601), [], True),
        (cluster(3600, idle=600, used=3000), [lease(601)], True),
        (cluster(3600, idle=1, used=20), [lease(20)], False),
    ],
    ids=[
        "its driver is alive",
        "one of two drivers is alive",
        "its driver was killed",
        "its driver released the Lease and could not delete the cluster",
        "created a moment ago",
        "the driver of another cluster is alive",
        "shared and kept warm",
        "shared and in use",
        "shared and idle too long",
        "shared with a last driver killed long ago",
        "shared with a late renewal",
    ],
)
def test_a_cluster_is_abandoned_when_no_driver_is_left(
    raycluster: dict[str, Any], leases: list[dict[str, Any]], abandoned: bool
):
    assert is_abandoned(raycluster, leases, NOW) == abandoned


def test_a_run_is_lost_when_none_of_its_leases_is_renewed():
    leases = [
        lease(90, run="lost"),
        lease(5, run="alive"),
        lease(90, run="restarted"),
        lease(5, run="restarted"),
        lease(90),
    ]
    assert lost_runs(leases, NOW) == {"lost": NOW - timedelta(seconds=90)}


def test_a_run_is_lost_when_its_pod_exists_after_the_time_that_it_had_to_end():
    def pod(run: str, deleted: float | None) -> dict[str, Any]:
        deletion = (
            {} if deleted is None else {"deletionTimestamp": ago(deleted - 300), "deletionGracePeriodSeconds": 300}
        )
        return {"metadata": {"labels": {"prefect.io/flow-run-id": run}, **deletion}}

    pods = [pod("lost", 400), pod("ends", 290), pod("about to be killed", 310), pod("works", None)]
    assert runs_on_lost_nodes(pods, NOW) == {"lost": NOW - timedelta(seconds=400)}


def test_an_unexpected_error_does_not_end_the_renewals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    class Api:
        renewals, error = 0, False

        def patch(self, *_: object) -> dict[str, Any]:
            if self.error:
                raise KeyError("renewTime")
            self.renewals += 1
            return {}

    monkeypatch.setattr("rayworks.cluster.kubernetes.lease.RENEW_SECONDS", 0.01)
    api: Any = Api()
    driver = DriverLease(api, cluster(created=5), "driver")
    driver.acquire()
    api.error = True
    eventually(lambda: "The Lease one-driver could not be renewed" in caplog.text)
    api.error, renewals = False, api.renewals
    eventually(lambda: api.renewals > renewals)
    driver.stop_renewing()
