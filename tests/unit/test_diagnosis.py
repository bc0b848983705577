"""The diagnosis of statuses that ``tests/cluster/test_explained_failures.py`` recorded on a real cluster."""

import json
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from rayworks.cluster.kubernetes.conditions import EXPLAINED, Condition
from rayworks.cluster.kubernetes.diagnosis import OWNER_RULES, error, findings, out_of_memory, refusal
from rayworks.cluster.kubernetes.finding import Part, Snapshot, about_owner

STATUSES = Path(__file__).parent / "statuses"

# For each recording: the condition, whether it is final, the kind of object, Kubernetes' words, the cluster's part.
RECORDED = {
    "head-too-large": ("TooLarge", True, "Pod", "2 Insufficient cpu", "head"),
    "worker-too-large": ("TooLarge", True, "Pod", "2 Insufficient cpu", "small"),
    "no-room": ("NoRoom", False, "Pod", "1 Insufficient memory", "head"),
    "head-taint": ("UntoleratedTaint", True, "Pod", "node-3 has rayworks/test=taint:NoSchedule", "head"),
    "worker-taint": ("UntoleratedTaint", True, "Pod", "node-3 has rayworks/test=taint:NoSchedule", "small"),
    "affinity": ("UnmatchedAffinity", True, "Pod", "didn't match Pod's node affinity/selector", "head"),
    "head-quota": ("QuotaExceeded", True, "RayCluster", "exceeded quota: small, requested: requests.cpu=10m", "head"),
    "worker-quota": ("QuotaExceeded", True, "RayCluster", "used: pods=1, limited: pods=1", "small"),
    "head-image": ("ImageNotFound", True, "Pod", "absent:1: not found", "head"),
    "worker-image": ("ImageNotFound", True, "Pod", "absent:1: not found", "small"),
    "image-name": ("ImageNotFound", True, "Pod", "couldn't parse image name", "head"),
    "registry": ("ImageUnreachable", False, "Pod", "connection refused", "head"),
    "head-crash": ("CrashLoop", True, "Pod", "exit code 1, broken", "head"),
    "worker-crash": ("CrashLoop", True, "Pod", "exit code 1, broken", "small"),
    "command": ("CrashLoop", True, "Pod", "executable file not found", "head"),
    "head-ends-for-good": ("CrashLoop", True, "RayCluster", "exit code 1, Error, broken", "head"),
    "head-memory": ("OutOfMemory", True, "Pod", "OOMKilled, exit code 137", "head"),
    "worker-memory": ("OutOfMemory", True, "Pod", "OOMKilled, exit code 137", "small"),
    "readiness": ("UnreadyProbe", False, "Pod", "Readiness probe failed", "head"),
    "liveness": ("UnreadyProbe", True, "Pod", "Liveness probe failed", "head"),
    "pod-security": ("AdmissionRefused", True, "RayCluster", 'violates PodSecurity "restricted:latest"', "head"),
    "policy": ("AdmissionRefused", True, "RayCluster", "the label cost-centre is missing", "head"),
    "webhook": ("WebhookUnreachable", False, "RayCluster", 'failed calling webhook "rules.example.com"', "head"),
    "service-account": ("ConfigMissing", True, "RayCluster", 'serviceaccount "absent" not found', "head"),
    "config-map": ("ConfigMissing", True, "Pod", 'configmap "absent" not found', "head"),
    "secret-volume": ("ConfigMissing", True, "Pod", 'secret "absent" not found', "head"),
    "claim-missing": ("VolumeUnbound", True, "Pod", 'persistentvolumeclaim "absent" not found', "head"),
    "claim-unbound": ("VolumeUnbound", True, "Pod", 'storageclass.storage.k8s.io "absent" not found', "head"),
    "invalid": ("InvalidManifest", True, "RayCluster", "minReplicas 5 greater than maxReplicas 1", ""),
    "operator": ("OperatorSilent", True, "RayCluster", "no status", ""),
    "suspended": ("Queued", False, "RayCluster", "RayCluster has been suspended", ""),
    "gated": ("Queued", False, "Pod", "non-empty scheduling gates", "head"),
    "evicted": ("Evicted", False, "Pod", 'exceeds the limit "1Mi"', "head"),
    "runtime": ("NotStarted", False, "Pod", 'no runtime for "absent" is configured', "head"),
    "node-lost": ("NodeLost", False, "Pod", "Node is not ready: node-3", "head"),
}

REFUSED = {
    "forbidden": ("the account lacks a permission", "cannot create resource", "RoleBinding"),
    "policy": ("is refused by the rules", "cost-centre", "meets the rule"),
    "webhook": ("cannot be checked by an admission webhook", "connection refused", "behind the webhook"),
    "quota": ("exceeds the quota", "count/rayclusters.ray.io=0", "kubectl describe quota -n ns"),
    "invalid": ("has an invalid manifest", "spec.headGroupSpec: Required value", "Correct that field"),
    "malformed": ("has an invalid manifest", "ray.io/v2", "Correct that field"),
    "no-kuberay": ("KubeRay is not installed", "404 page not found", "Install the KubeRay operator"),
    "no-namespace": ("the namespace does not exist", 'namespaces "absent" not found', "kubectl create namespace ns"),
    "terminating": ("the namespace is being deleted", "being terminated", "another namespace"),
    "credentials": ("does not accept the credentials", "Unauthorized", "Renew"),
    "exists": ("the RayCluster already exists", "already exists", "another name"),
}


RAY_MESSAGE = (
    "1 worker(s) were killed due to the node running low on memory. "
    "Memory on the node (IP: {address}, ID: 0a1b) was 1.92GB used / 2.00GB limit (0.960000)"
)
"""After the format strings of Ray 2.60's raylet."""


def recorded(name: str) -> tuple[Snapshot, datetime]:
    """Return a recorded snapshot and its time."""
    recording = json.loads((STATUSES / f"{name}.json").read_text())
    parts = (tuple(recording.get(part, ())) for part in ("pods", "events", "nodes"))
    return Snapshot(recording["cluster"], *parts), datetime.fromisoformat(recording["now"])


def outcomes(snapshot: Snapshot, now: datetime) -> list[tuple[Condition, bool]]:
    """Return the condition of each finding, and whether it is final."""
    return [(finding.condition, finding.is_final) for finding in findings(snapshot, now)]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_failure_has_one_condition_with_the_words_of_kubernetes(name: str):
    condition, is_final, kind, words, part = RECORDED[name]
    snapshot, now = recorded(name)
    assert {condition for condition, _ in outcomes(snapshot, now)} == {condition}
    first = findings(snapshot, now)[0]
    assert first.is_final == is_final
    assert words in first.detail
    assert first.part == Part("RayCluster", part == "head", part.removesuffix("head"))
    namespace = snapshot.owner["metadata"]["namespace"]
    assert first.object.startswith(f"{kind} {namespace}/{snapshot.owner['metadata']['name']}")
    failure = error(first)
    assert (failure.where, failure.remedy) == (first.object, first.remedy)
    assert failure.detail == f"{condition}: {first.detail}"
    assert "{" not in first.remedy


def test_a_healthy_cluster_has_no_findings():
    assert findings(*recorded("well")) == []


@pytest.mark.parametrize(
    "name",
    [
        *("head-taint", "worker-taint", "affinity", "head-too-large", "worker-too-large"),  # a node autoscaler may act
        *("head-image", "config-map", "secret-volume", "claim-missing", "service-account"),  # it may still be created
    ],
)
def test_what_may_still_be_created_is_not_final_at_first(name: str):
    snapshot, _ = recorded(name)
    created = datetime.fromisoformat(snapshot.owner["metadata"]["creationTimestamp"])
    early = outcomes(snapshot, created + timedelta(seconds=5))
    assert early
    assert not any(is_final for _, is_final in early)


def test_the_operator_may_leave_a_new_cluster_without_a_status_for_a_while():
    snapshot, _ = recorded("operator")
    created = datetime.fromisoformat(snapshot.owner["metadata"]["creationTimestamp"])
    assert findings(snapshot, created + timedelta(seconds=5)) == []
    assert outcomes(snapshot, created + timedelta(seconds=20)) == [("OperatorSilent", False)]


def test_the_probe_that_restarts_a_container_is_named_though_another_failed_later():
    snapshot, now = recorded("liveness")
    [readiness] = [event for event in snapshot.events if event["message"].startswith("Readiness probe failed")]
    later = {**readiness, "lastTimestamp": now.isoformat()}
    [finding] = findings(replace(snapshot, events=(*snapshot.events, later)), now)
    assert finding.detail.startswith("Liveness probe failed, 3 restarts")


@pytest.mark.parametrize("reason", ["TriggeredScaleUp", "Nominated"])
def test_a_pod_for_which_an_autoscaler_adds_a_node_is_not_given_up(reason: str):
    snapshot, now = recorded("head-taint")
    pod = snapshot.pods[0]["metadata"]
    event = {
        "reason": reason,
        "message": "pod triggered scale-up: [{gpu 0->1 (max: 2)}]",
        "lastTimestamp": now.isoformat(),
        "involvedObject": {"kind": "Pod", "name": pod["name"], "namespace": pod["namespace"], "uid": pod["uid"]},
    }
    first = findings(replace(snapshot, events=(*snapshot.events, event)), now)[0]
    assert not first.is_final
    assert "gpu 0->1" in first.detail


def unschedulable(message: str, snapshot: Snapshot) -> Snapshot:
    """Return the snapshot with this message of the scheduler about its pod, and without nodes."""
    pod: dict[str, Any] = deepcopy(dict(snapshot.pods[0]))
    for condition in pod["status"]["conditions"]:
        condition["message"] = message
    return replace(snapshot, pods=(pod,), nodes=())


HOPELESS = "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("message", "condition", "is_final"),
    [
        ("0/3 nodes are available: 3 node(s) had untolerated taint {gpu: yes}. " + HOPELESS, "UntoleratedTaint", True),
        ("0/3 nodes are available: 3 node(s) had untolerated taint(s). " + HOPELESS, "UntoleratedTaint", True),
        (
            "0/3 nodes are available: 3 node(s) had untolerated taint {node.kubernetes.io/not-ready: }. " + HOPELESS,
            "NoRoom",
            False,
        ),
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: }. " + HOPELESS,
            "TooLarge",
            True,
        ),
        (
            "0/3 nodes are available: 1 Insufficient cpu, "
            "2 node(s) had untolerated taint {node.kubernetes.io/unreachable: }. " + HOPELESS,
            "NoRoom",
            False,
        ),
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector.",
            "NoRoom",
            False,
        ),
        ("0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient nvidia.com/gpu.", "NoRoom", False),
        ("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.", "UnmatchedAffinity", True),
        ("0/3 nodes are available: 3 node(s) had volume node affinity conflict.", "VolumeUnbound", False),
        (
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No victims found.",
            "NoRoom",
            False,
        ),
        ("no nodes available to schedule pods", "NoRoom", False),
    ],
)
def test_the_reasons_of_all_nodes_decide_about_a_pod(message: str, condition: str, is_final: bool):
    snapshot, now = recorded("affinity")
    assert outcomes(unschedulable(message, snapshot), now) == [(condition, is_final)]


def test_a_pod_waits_for_an_unhealthy_node_to_lose_its_taints():
    snapshot, now = recorded("head-taint")
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}
    nodes = [{**node, "spec": {**node["spec"], "taints": [taint]}} for node in snapshot.nodes]
    assert outcomes(replace(snapshot, nodes=tuple(nodes)), now) == [("NoRoom", False)]


@pytest.mark.parametrize(
    ("quota", "is_final"),
    [
        ("requested: requests.cpu=2, used: requests.cpu=3500m, limited: requests.cpu=4", False),
        ("requested: requests.cpu=5, used: requests.cpu=0, limited: requests.cpu=4", True),
        ("requested: limits.memory=1Gi, used: limits.memory=512Mi, limited: limits.memory=1Gi", False),
        ("requested: limits.memory=1025Mi, used: limits.memory=0, limited: limits.memory=1Gi", True),
        ("requested: pods=1, used: pods=2, limited: pods=2", False),
    ],
)
def test_a_quota_is_final_only_if_it_is_too_small_for_the_cluster_alone(quota: str, is_final: bool):
    snapshot, now = recorded("worker-quota")
    cluster: dict[str, Any] = deepcopy(dict(snapshot.owner))
    for condition in cluster["status"]["conditions"]:
        condition["message"] = (
            f'FailedCreateWorkerPod\npods "ray-small-worker-a" is forbidden: exceeded quota: small, {quota}'
        )
    assert outcomes(replace(snapshot, owner=cluster), now) == [("QuotaExceeded", is_final)]


def test_final_findings_come_first_and_the_head_before_workers():
    (passing, now), (worker, then), (head, later) = (
        recorded("no-room"),
        recorded("worker-image"),
        recorded("head-image"),
    )
    together = replace(passing, pods=(*passing.pods, *worker.pods, *head.pods), events=())
    assert [(finding.is_final, finding.part.is_head) for finding in findings(together, max(now, then, later))] == [
        (True, True),
        (True, False),
        (False, True),
    ]


def test_the_rules_for_pods_hold_for_any_kind_of_owner(monkeypatch: pytest.MonkeyPatch):
    snapshot, now = recorded("worker-image")
    monkeypatch.setitem(OWNER_RULES, "RayService", lambda *_: iter(()))
    service = replace(snapshot, owner={**snapshot.owner, "kind": "RayService"})
    (finding,) = findings(service, now)
    assert finding.condition == "ImageNotFound"
    assert finding.part == Part("RayService", worker_group="small")
    assert error(about_owner(service, "QuotaExceeded", "", is_final=True)).what.startswith("the RayService exceeds")
    assert refusal(409, {}, "RayService ns/a", kind="RayService").what == "the RayService already exists"


def test_events_of_other_objects_change_nothing():
    snapshot, now = recorded("well")
    others = [
        event for name in RECORDED for event in recorded(name)[0].events if event["involvedObject"]["name"] != "ray"
    ]
    others = [event for event in others if event["reason"] != "Evicted"]  # of a deleted pod of this name
    assert findings(replace(snapshot, events=(*snapshot.events, *others)), now) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_of_the_api_server_has_its_words_and_a_remedy(name: str):
    clause, words, remedy = REFUSED[name]
    recording = json.loads((STATUSES / f"refused-{name}.json").read_text())
    failure = refusal(recording["status"], recording["body"], "RayCluster ns/ray")
    assert clause in failure.what
    assert words in failure.detail
    assert remedy in failure.remedy
    assert failure.where == "RayCluster ns/ray"


def test_a_failure_of_the_api_server_without_a_message_has_its_status():
    failure = refusal(503, {}, "RayCluster ns/ray")
    assert str(failure).startswith("The Kubernetes API does not work: RayCluster ns/ray (status 503)")


def _with_message(snapshot: Snapshot, message: str) -> Snapshot:
    """The head's pods have an init container, and KubeRay deleted one with a message."""
    events = [
        event | {"message": message} if event["reason"] == "DeletedHeadPod" else event for event in snapshot.events
    ]
    owner = deepcopy(snapshot.owner)
    owner["spec"]["headGroupSpec"]["template"]["spec"]["initContainers"] = [{"name": "setup"}]
    return replace(snapshot, owner=owner, events=tuple(events))


FAILED_BEFORE_RAY = (
    "Deleted head Pod ns/h; Pod status: Failed; Pod restart policy: Never; Ray container terminated status: nil"
)


def test_a_head_whose_init_container_fails_again_and_again_is_given_up():
    snapshot, now = recorded("head-ends-for-good")
    (finding, *_) = findings(_with_message(snapshot, FAILED_BEFORE_RAY), now)
    assert (finding.condition, finding.is_final, finding.part.is_head) == ("CrashLoop", True, True)
    assert finding.detail.startswith("an init container (setup) failed: Deleted head Pod")
    assert "--all-containers" in finding.remedy


def test_an_evicted_head_did_not_fail_in_an_init_container():
    snapshot, now = recorded("head-ends-for-good")
    snapshot = _with_message(snapshot, FAILED_BEFORE_RAY)
    evicted = snapshot.events[0] | {
        "reason": "Evicted",
        "involvedObject": {"kind": "Pod", "namespace": "ns", "name": "ns/h"},
        "lastTimestamp": now.isoformat(),
    }
    snapshot = replace(snapshot, events=(*snapshot.events, evicted))
    assert "an init container" not in str([finding.detail for finding in findings(snapshot, now)])


def test_a_head_that_keeps_its_state_in_redis_and_ends_is_advised_to_check_redis():
    snapshot, now = recorded("head-ends-for-good")
    spec = snapshot.owner["spec"] | {"gcsFaultToleranceOptions": {"redisAddress": "redis:6379"}}
    (finding, *_) = findings(replace(snapshot, owner=snapshot.owner | {"spec": spec}), now)
    assert finding.remedy.startswith("Check that Redis responds at redis:6379, with that password. Read the log")


def test_a_task_that_ray_ended_out_of_memory_is_explained_with_its_pod():
    snapshot, now = recorded("well")
    pod = snapshot.pods[0]
    failure = out_of_memory("train", RAY_MESSAGE.format(address=pod["status"]["podIP"]), snapshot, now)
    assert failure
    assert failure.what == "the task train ran out of memory"
    assert failure.where == f"Pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
    assert failure.detail.startswith("Memory on the node (IP: ")
    assert "@resources(memory=...)" in failure.remedy


def test_a_task_that_ray_ended_on_an_unknown_node_is_explained_with_the_node():
    failure = out_of_memory("train", RAY_MESSAGE.format(address="10.0.0.1"), *recorded("well"))
    assert failure
    assert failure.where == "node 10.0.0.1"


def test_a_task_whose_pod_the_kernel_ended_out_of_memory_is_explained_with_the_pod():
    snapshot, now = recorded("worker-memory")
    failure = out_of_memory("train", "The worker died unexpectedly", snapshot, now)
    assert failure
    assert "worker group small" in failure.remedy
    assert "OOMKilled" in failure.detail


def test_a_task_that_failed_for_another_reason_is_not_explained():
    assert out_of_memory("train", "ValueError: no", *recorded("head-crash")) is None


def test_every_condition_is_explained_and_documented():
    trouble = (Path(__file__).parents[2] / "docs/trouble.md").read_text()
    assert set(EXPLAINED) == set(get_args(Condition))
    assert [condition for condition in get_args(Condition) if f"`{condition}`" not in trouble] == []
