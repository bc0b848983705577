"""Each reason why a RayCluster does not start is found within a minute, in Kubernetes' own words.

All clusters are created at once and watched until each is explained: together they take as long as the slowest.
``RAYWORKS_RECORD_STATUSES=1`` records what Kubernetes reported, for ``tests/unit/test_diagnosis.py``.
"""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rayworks.cluster.kubernetes.diagnosis import error, findings
from rayworks.cluster.kubernetes.finding import Finding, Snapshot
from rayworks.cluster.kubernetes.objects import last_seen
from tests.cluster.failing_clusters import CASES, Case
from tests.cluster.kubernetes_access import Cluster
from tests.cluster.kubernetes_objects import KubernetesObjects, record_snapshot
from tests.cluster.raycluster_manifests import RAY_HEAD, RAY_WORKER, Objects, Place, ray_cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SECONDS = 60
START_SECONDS = 300
"""Until containers run, Ray in some of them, on a machine that has other work."""
TAINT = {"key": "rayworks/test", "value": "taint", "effect": "NoSchedule"}


@dataclass
class Watched:
    """A case in progress."""

    place: Place
    started: datetime | None = None
    """When the condition could first hold."""
    findings: list[Finding] = field(default_factory=list)
    first_seconds: float | None = None
    """Until the condition was found at all."""
    seconds: float | None = None
    """Until it was found as it must be: final, where it is."""


@pytest.fixture(scope="module")
def watched(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, Watched]]:
    """All cases, each in a namespace of its own, watched until each is explained or its time is over."""
    kubernetes, run = KubernetesObjects(), uuid.uuid4().hex[:4]
    core = kubernetes.core
    chosen = [case for case in CASES if any(f"[{case.name}]" in item.name for item in request.session.items)]
    tainted, other = sorted(core.list_node().items, key=lambda node: node.metadata.name)[-1:-3:-1]
    place = Place(
        "", cluster.image, tainted.metadata.name, other.metadata.name, _half(other.status.allocatable["memory"])
    )
    taints = core.api_client.sanitize_for_serialization(tainted.spec.taints) or []
    created: Objects = []
    cases: dict[str, Watched] = {}
    core.patch_node(tainted.metadata.name, {"spec": {"taints": [*taints, TAINT]}})
    try:
        for case in chosen:
            at = replace(place, namespace=f"rw-diag-{case.name}-{run}")
            *objects, ray_cluster = [_namespace(at.namespace, case.labels), *case.objects(at)]
            kubernetes.create(objects)
            created += objects
            if any(rule["kind"].startswith("Validating") for rule in objects):
                eventually(
                    lambda namespace=at.namespace: kubernetes.refuses_pods(namespace), SECONDS, "pods are accepted"
                )
            kubernetes.create([ray_cluster])
            cases[case.name] = Watched(at)
        with contextlib.suppress(AssertionError):  # each test reports its own
            eventually(lambda: _are_explained(kubernetes, chosen, cases), START_SECONDS + SECONDS, every=1)
        yield cases
    finally:
        core.patch_node(tainted.metadata.name, {"spec": {"taints": taints or None}})
        kubernetes.delete_cluster_wide(created)


@pytest.mark.xdist_group("taints")
@pytest.mark.minutes(5)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_reason_is_found_within_a_minute(case: Case, watched: dict[str, Watched]):
    outcome = watched[case.name]
    assert outcome.first_seconds is not None, outcome.findings
    assert outcome.first_seconds <= SECONDS
    assert outcome.seconds is not None, outcome.findings
    print(f"{case.condition}: found after {outcome.first_seconds:.1f} s, final after {outcome.seconds:.1f} s")  # noqa: T201
    first = outcome.findings[0]
    assert {(finding.condition, finding.part.is_head, finding.part.worker_group) for finding in outcome.findings} == {
        (case.condition, case.is_head, case.group)
    }, "nothing else is reported"
    assert first.is_final == case.is_final
    assert first.object.startswith(f"{case.kind} {outcome.place.namespace}/ray")
    assert case.words in first.detail
    assert first.object in str(error(first))
    assert first.remedy in str(error(first))


@pytest.mark.minutes(2)
def test_a_cluster_that_runs_has_no_findings(cluster: Cluster):
    kubernetes = KubernetesObjects()
    place = Place(f"rw-diag-well-{uuid.uuid4().hex[:4]}", cluster.image, "", "", 0)
    kubernetes.create_namespace(place.namespace)
    try:
        kubernetes.create([ray_cluster(place, RAY_HEAD, RAY_WORKER)])

        def runs() -> Snapshot | None:
            snapshot = kubernetes.snapshot(place.namespace)
            assert not [finding for finding in findings(snapshot, datetime.now(UTC)) if finding.is_final]
            conditions = [condition for pod in snapshot.pods for condition in pod["status"].get("conditions", ())]
            ready = [
                condition for condition in conditions if (condition["type"], condition["status"]) == ("Ready", "True")
            ]
            return snapshot if len(ready) == 2 else None

        snapshot = eventually(runs, START_SECONDS, every=1)
        assert findings(snapshot, datetime.now(UTC)) == []
        record_snapshot("well", snapshot, datetime.now(UTC))
    finally:
        kubernetes.delete_namespace(place.namespace)


def _are_explained(kubernetes: KubernetesObjects, cases: list[Case], watched: dict[str, Watched]) -> bool:
    """Check the cases that are not explained yet; return whether all are now."""
    unexplained = [case for case in cases if watched[case.name].seconds is None]
    now = datetime.now(UTC)
    snapshots = kubernetes.snapshots(watched[case.name].place.namespace for case in unexplained)
    for case in unexplained:
        _check(kubernetes, case, watched[case.name], snapshots[watched[case.name].place.namespace], now)
    return all(watched[case.name].seconds is not None for case in cases)


def _check(kubernetes: KubernetesObjects, case: Case, watched: Watched, snapshot: Snapshot, now: datetime) -> None:
    """Note what a snapshot explains, and end the cluster of a case that is explained as it must be."""
    if watched.started is None:
        watched.started = _begin(case, snapshot, now)
    seconds = (now - (watched.started or now)).total_seconds()
    watched.findings = findings(snapshot, now)
    right = [finding for finding in watched.findings if finding.condition == case.condition]
    right = [finding for finding in right if case.words in finding.detail]
    if right and watched.first_seconds is None:
        watched.first_seconds = seconds
    if any(finding.is_final == case.is_final for finding in right):
        watched.seconds = seconds
        record_snapshot(case.name, snapshot, now)
        kubernetes.delete_namespace(watched.place.namespace)  # what does not start takes as much CPU as what does


def _begin(case: Case, snapshot: Snapshot, now: datetime) -> datetime | None:
    """Return since when the condition can hold: at once, when the container that brings it about has run, or when the
    kubelet evicts the pod. That looks at the size of volumes once a minute, and evicts a few seconds later."""
    if case.condition == "Evicted":
        evictions = [event for event in snapshot.events if event["reason"] == "Evicted"]
        return datetime.fromisoformat(last_seen(evictions[0])) if evictions else None
    role = "head" if case.is_head else "worker"
    pods = [pod for pod in snapshot.pods if pod["metadata"]["labels"]["ray.io/node-type"] == role]
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", ())]
    has_run = any(
        {"running", "terminated"} & {*status.get("state", ()), *status.get("lastState", ())} for status in statuses
    )
    is_possible = not case.is_after_start or has_run or any("Deleted" in event["reason"] for event in snapshot.events)
    return now if is_possible else None


def _namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _half(memory: str) -> int:
    """Return a bit more than half of a node's memory, in Ki."""
    from kubernetes.utils.quantity import parse_quantity

    return int(parse_quantity(memory) / 1024 * 55 / 100)
