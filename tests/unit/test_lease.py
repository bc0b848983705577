"""Which RayClusters nobody uses any more: what the sweep deletes, and what it spares."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rayworks.cluster.kubernetes.lease import is_abandoned, lost_runs

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
    ("found", "leases", "abandoned"),
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
        "its driver lives",
        "one of two drivers lives",
        "its driver was killed",
        "its driver gave it back and could not delete it",
        "it was made a moment ago",
        "another's driver lives",
        "shared, and warm",
        "shared, and in use",
        "shared, and idle too long",
        "shared, its last driver killed long ago",
        "shared, a renewal is late",
    ],
)
def test_a_cluster_is_abandoned_when_no_driver_is_left(
    found: dict[str, Any], leases: list[dict[str, Any]], abandoned: bool
):
    assert is_abandoned(found, leases, NOW) == abandoned


def test_a_run_is_lost_when_none_of_its_leases_is_renewed():
    leases = [
        lease(90, run="lost"),
        lease(5, run="lives"),
        lease(90, run="begun again"),
        lease(5, run="begun again"),
        lease(90),
    ]
    assert lost_runs(leases, NOW) == {"lost": NOW - timedelta(seconds=90)}
