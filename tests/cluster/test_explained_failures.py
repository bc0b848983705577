"""Each reason why a RayCluster does not come up is found within a minute, in Kubernetes' own words.

All are made at once, and watched until each is explained: together they take as long as the slowest.
``RAYWORKS_RECORD_STATUSES=1`` records what Kubernetes said, for ``tests/unit/test_diagnosis.py``.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayworks.cluster.kubernetes.diagnosis import error, findings, refusal
from rayworks.cluster.kubernetes.finding import Finding, Snapshot
from tests.cluster.failing_clusters import CASES, RAY_HEAD, RAY_WORKER, Case, Place, policy, quota, ray_cluster, webhook
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SECONDS = 60
START_SECONDS = 180
"""Until containers run, Ray in some of them, on a machine that has other work."""
STATUSES = Path(__file__).parents[1] / "unit/statuses"
TAINT = {"key": "rayworks/test", "value": "taint", "effect": "NoSchedule"}


@dataclass
class Watched:
    """A case under way."""

    place: Place
    began: datetime | None = None
    """When the condition could first be there."""
    found: list[Finding] = field(default_factory=list)
    first_seconds: float | None = None
    """Until the condition was found at all."""
    seconds: float | None = None
    """Until it was found as it must be: final, where it is."""


@pytest.fixture(scope="module")
def api(image: str) -> Any:
    import kubernetes

    kubernetes.config.load_kube_config()
    return kubernetes.dynamic.DynamicClient(kubernetes.client.ApiClient())


@pytest.fixture(scope="module")
def watched(api: Any, image: str, request: pytest.FixtureRequest) -> Iterator[dict[str, Watched]]:
    """All cases, each in a namespace of its own, watched until each is explained or its time is over."""
    from kubernetes.client import CoreV1Api

    core, run = CoreV1Api(), uuid.uuid4().hex[:4]
    chosen = [case for case in CASES if any(f"[{case.name}]" in item.name for item in request.session.items)]
    tainted, other = sorted(core.list_node().items, key=lambda node: node.metadata.name)[-1:-3:-1]
    place = Place("", image, tainted.metadata.name, other.metadata.name, _half(other.status.allocatable["memory"]))
    taints = core.api_client.sanitize_for_serialization(tainted.spec.taints) or []
    made: list[dict[str, Any]] = []
    cases: dict[str, Watched] = {}
    core.patch_node(tainted.metadata.name, {"spec": {"taints": [*taints, TAINT]}})
    try:
        _pull(core, image)
        for case in chosen:
            here = replace(place, namespace=f"rw-diag-{case.name}-{run}")
            for thing in [_namespace(here.namespace, case), *case.make(here)]:
                _kind(api, thing).create(body=thing, namespace=thing["metadata"].get("namespace"))
                if "namespace" not in thing["metadata"]:
                    made.append(thing)
            cases[case.name] = Watched(here)
        with contextlib.suppress(AssertionError):  # each test tells of its own
            eventually(
                lambda: not [case for case in chosen if not _look(core, case, cases[case.name])],
                START_SECONDS + SECONDS,
            )
        yield cases
    finally:
        core.patch_node(tainted.metadata.name, {"spec": {"taints": taints or None}})
        for thing in made:
            _kind(api, thing).delete(name=thing["metadata"]["name"], body={"propagationPolicy": "Background"})


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_reason_is_found_within_a_minute(case: Case, watched: dict[str, Watched]):
    one = watched[case.name]
    assert one.first_seconds is not None, one.found
    assert one.first_seconds <= SECONDS
    assert one.seconds is not None, one.found
    print(f"{case.condition}: found after {one.first_seconds:.1f} s, as it must be after {one.seconds:.1f} s")  # noqa: T201
    first = one.found[0]
    assert {(finding.condition, finding.part.is_head, finding.part.worker_group) for finding in one.found} == {
        (case.condition, case.is_head, case.group)
    }, "nothing else is claimed"
    assert first.is_final == case.is_final
    assert first.object.startswith(f"{case.kind} {one.place.namespace}/ray")
    assert case.words in first.detail
    assert first.object in str(error(first))
    assert first.remedy in str(error(first))


def test_a_cluster_that_runs_has_no_findings(api: Any, image: str):
    from kubernetes.client import CoreV1Api

    core, here = CoreV1Api(), Place(f"rw-diag-well-{uuid.uuid4().hex[:4]}", image, "", "", 0)
    cluster = ray_cluster(here, RAY_HEAD, RAY_WORKER)
    core.create_namespace(_namespace(here.namespace, CASES[0]))
    try:
        _kind(api, cluster).create(body=cluster, namespace=here.namespace)

        def runs() -> Snapshot | None:
            snapshot = _snapshot(core, here.namespace)
            assert not [one for one in findings(snapshot, datetime.now(UTC)) if one.is_final]
            conditions = [one for pod in snapshot.pods for one in pod["status"].get("conditions", ())]
            ready = [one for one in conditions if one["type"] == "Ready" and one["status"] == "True"]
            return snapshot if len(ready) == 2 else None

        snapshot = eventually(runs, START_SECONDS)
        assert findings(snapshot, datetime.now(UTC)) == []
        if os.environ.get("RAYWORKS_RECORD_STATUSES"):
            _record("well", snapshot, datetime.now(UTC))
    finally:
        core.delete_namespace(here.namespace)


def _look(core: Any, case: Case, one: Watched) -> bool:
    """Whether the case is done with: explained as it must be."""
    if one.seconds is not None:
        return True
    now = datetime.now(UTC)
    snapshot = _snapshot(core, one.place.namespace)
    if one.began is None and _has_begun(case, snapshot):
        one.began = now
    seconds = (now - (one.began or now)).total_seconds()
    one.found = findings(snapshot, now)
    right = [finding for finding in one.found if finding.condition == case.condition and case.words in finding.detail]
    if right and one.first_seconds is None:
        one.first_seconds = seconds
    if any(finding.is_final == case.is_final for finding in right):
        one.seconds = seconds
        if os.environ.get("RAYWORKS_RECORD_STATUSES"):
            _record(case.name, snapshot, now)
    return one.seconds is not None


def _has_begun(case: Case, snapshot: Snapshot) -> bool:
    """Whether the condition can be there: at once, or when the container has run that brings it about."""
    role = "head" if case.is_head else "worker"
    pods = [pod for pod in snapshot.pods if pod["metadata"]["labels"]["ray.io/node-type"] == role]
    containers = [one for pod in pods for one in pod["status"].get("containerStatuses", ())]
    ran = any({"running", "terminated"} & {*one.get("state", ()), *one.get("lastState", ())} for one in containers)
    return not case.runs or ran or any("Deleted" in event["reason"] for event in snapshot.events)


def _snapshot(core: Any, namespace: str) -> Snapshot:
    from kubernetes.client import CustomObjectsApi

    def plain(answer: Any) -> tuple[Any, ...]:
        return tuple(core.api_client.sanitize_for_serialization(answer.items))

    return Snapshot(
        CustomObjectsApi().get_namespaced_custom_object("ray.io", "v1", namespace, "rayclusters", "ray"),
        plain(core.list_namespaced_pod(namespace, label_selector="ray.io/cluster=ray")),
        plain(core.list_namespaced_event(namespace)),
        plain(core.list_node()),
    )


def _pull(core: Any, image: str) -> None:
    """Have the image on every node, so that no case waits for it."""
    name = f"rw-diag-pull-{uuid.uuid4().hex[:5]}"
    core.create_namespace({"metadata": {"name": name}})
    for node in core.list_node().items:
        container = {"name": "true", "image": image, "command": ["true"]}
        spec = {"nodeName": node.metadata.name, "restartPolicy": "Never", "containers": [container]}
        core.create_namespaced_pod(name, {"metadata": {"generateName": "pull-"}, "spec": spec})
    eventually(lambda: all(pod.status.phase == "Succeeded" for pod in core.list_namespaced_pod(name).items), 300)
    core.delete_namespace(name)


def _record(name: str, snapshot: Snapshot, now: datetime) -> None:
    """Keep what the diagnosis could ever read."""
    dropped = {
        "managedFields",
        "volumeMounts",
        "images",
        "annotations",
        "env",
        "ports",
        "securityContext",
        "imageID",
        "containerID",
    }

    def trimmed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: trimmed(one) for key, one in value.items() if key not in dropped}
        return [trimmed(one) for one in value] if isinstance(value, list | tuple) else value

    recording = {"now": now.isoformat(), "cluster": snapshot.owner, "pods": snapshot.pods, "events": snapshot.events}
    recording["nodes"] = [
        {"metadata": {"name": node["metadata"]["name"], "labels": node["metadata"]["labels"]}, "spec": node["spec"]}
        for node in snapshot.nodes
    ]
    (STATUSES / f"{name}.json").write_text(json.dumps(trimmed(recording), separators=(",", ":")) + "\n")


def _kind(api: Any, thing: dict[str, Any]) -> Any:
    return api.resources.get(api_version=thing["apiVersion"], kind=thing["kind"])


def _namespace(name: str, case: Case) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": case.labels}}


def _half(memory: str) -> int:
    """A bit more than half of a node's memory, in Ki."""
    from kubernetes.utils.quantity import parse_quantity

    return int(parse_quantity(memory) / 1024 * 55 / 100)


REFUSED = {
    "forbidden": (403, "the account lacks a permission", 'cannot create resource "rayclusters"'),
    "policy": (422, "is refused by the rules of the namespace", "the label cost-centre is missing"),
    "webhook": (500, "cannot be checked by an admission webhook", 'failed calling webhook "rules.example.com"'),
    "quota": (403, "exceeds the quota of the namespace", "exceeded quota: small"),
    "invalid": (422, "has an invalid manifest", "spec.headGroupSpec: Required value"),
    "malformed": (400, "has an invalid manifest", "does not match the expected API version"),
    "no-kuberay": (404, "KubeRay is not installed", "404 page not found"),
    "no-namespace": (404, "the namespace does not exist", 'namespaces "absent" not found'),
    "credentials": (401, "does not accept the credentials", "Unauthorized"),
    "exists": (409, "the RayCluster already exists", "already exists"),
}
"""What the API server may answer to a RayCluster: its status, and what must be told of it."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_api_server_refuses_is_told_with_its_words(name: str, api: Any, image: str):
    from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api, CustomObjectsApi

    status, clause, words = REFUSED[name]
    client, version = ApiClient(), "v2" if name == "no-kuberay" else "v1"
    here = Place(f"rw-diag-{name}-{uuid.uuid4().hex[:4]}", image, "", "", 0)
    target = "absent" if name == "no-namespace" else here.namespace
    cluster = ray_cluster(here, suspend=True) | {"apiVersion": f"ray.io/{version}"}
    cluster["metadata"]["namespace"] = target
    before = {
        "policy": lambda: policy(here, "ray.io", "rayclusters"),
        "webhook": lambda: webhook(here, "ray.io", "rayclusters"),
        "quota": lambda: [quota(here, **{"count/rayclusters.ray.io": "0"})],
        "exists": lambda: [cluster],
    }.get(name, list)()
    if name == "invalid":
        del cluster["spec"]["headGroupSpec"]
    elif name == "malformed":
        cluster["apiVersion"] = "ray.io/v2"
    elif name == "forbidden":
        client.set_default_header("Impersonate-User", f"system:serviceaccount:{here.namespace}:default")
    elif name == "credentials":
        other = Configuration(host=client.configuration.host, api_key={"authorization": "Bearer wrong"})
        other.ssl_ca_cert = client.configuration.ssl_ca_cert
        client = ApiClient(other)

    def answer() -> Any:
        try:  # a rule needs a moment before it is in force
            CustomObjectsApi(client).create_namespaced_custom_object(
                "ray.io", version, target, "rayclusters", cluster, dry_run=None if name == "exists" else "All"
            )
        except ApiException as refused:
            return refused if refused.status == status else None

    CoreV1Api().create_namespace(_namespace(here.namespace, CASES[0]))
    try:
        for thing in before:
            _kind(api, thing).create(body=thing, namespace=thing["metadata"].get("namespace"))
        refused = eventually(answer, SECONDS, "the API server took it")
    finally:
        CoreV1Api().delete_namespace(here.namespace)
        for thing in before:
            if "namespace" not in thing["metadata"]:
                _kind(api, thing).delete(name=thing["metadata"]["name"])
    try:
        body = json.loads(refused.body)
    except ValueError:
        body = {"message": refused.body}
    if os.environ.get("RAYWORKS_RECORD_STATUSES"):
        (STATUSES / f"refused-{name}.json").write_text(
            json.dumps({"status": refused.status, "body": body}, separators=(",", ":")) + "\n"
        )
    told = refusal(refused.status, body, f"RayCluster {target}/ray")
    assert clause in told.what
    assert words in told.detail
    assert told.remedy
