"""What KubeRay and Kubernetes report about a RayCluster itself, and about pods of it that no longer exist. Pure."""

import re
from collections.abc import Iterator
from datetime import datetime

from rayworks.cluster.kubernetes import objects
from rayworks.cluster.kubernetes.conditions import (
    MISSING_SECONDS,
    OPERATOR_GIVEN_UP_SECONDS,
    OPERATOR_SECONDS,
    RECENT_SECONDS,
    REFUSALS,
    RESTARTS,
    Condition,
    first_match,
)
from rayworks.cluster.kubernetes.finding import Finding, Part, Snapshot, about_owner, remedy
from rayworks.cluster.kubernetes.objects import Object, age


def check(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Yield what is wrong with a RayCluster, apart from its pods."""
    yield from _refused_pods(snapshot, now)
    yield from _status(snapshot, now)
    recent = [event for event in snapshot.events if age(objects.last_seen(event), now) < RECENT_SECONDS]
    yield from _replaced_pods(snapshot, recent)
    yield from _evicted_pods(snapshot, recent)


def _refused_pods(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Yield why KubeRay could not even create a pod."""
    failure = objects.conditions(snapshot.owner).get("ReplicaFailure", {})
    if failure.get("status") != "True":
        return
    message = failure["message"].removeprefix(f"{failure['reason']}\n")
    condition = first_match(REFUSALS, message)
    is_final = {
        "QuotaExceeded": not objects.may_fit_quota_later(message, snapshot.pods),
        "WebhookUnreachable": False,
        "ConfigMissing": age(failure["lastTransitionTime"], now) >= MISSING_SECONDS,
    }.get(condition, True)
    part = _part(snapshot, is_head="Head" in failure["reason"], message=message)
    yield about_owner(snapshot, condition, message, is_final=is_final, part=part)


def _status(snapshot: Snapshot, now: datetime) -> Iterator[Finding]:
    """Yield why KubeRay does nothing for the cluster."""
    cluster, conditions = snapshot.owner, objects.conditions(snapshot.owner)
    if cluster["spec"].get("suspend"):
        message = conditions.get("RayClusterProvisioned", {}).get("message") or "spec.suspend is true"
        yield about_owner(snapshot, "Queued", message, is_final=False)
    elif not conditions:
        events = objects.events_about(cluster, snapshot.events)
        invalid = [event["message"] for event in events if event["reason"].startswith("InvalidRayCluster")]
        waited = age(cluster["metadata"]["creationTimestamp"], now)
        if invalid:
            yield about_owner(snapshot, "InvalidManifest", invalid[-1], is_final=True)
        elif waited >= OPERATOR_SECONDS:
            is_final = waited >= OPERATOR_GIVEN_UP_SECONDS
            detail = f"no status {waited:.0f} s after its creation"
            yield about_owner(snapshot, "OperatorSilent", detail, is_final=is_final)


def _replaced_pods(snapshot: Snapshot, recent: list[Object]) -> Iterator[Finding]:
    """Yield why a pod ended that has restartPolicy Never; KubeRay replaces it."""
    cluster = snapshot.owner
    evicted = {event["involvedObject"]["name"] for event in recent if event["reason"] == "Evicted"}
    ended = [
        event
        for event in objects.events_about(cluster, recent)
        if event["reason"] in ("DeletedHeadPod", "DeletedWorkerPod")
        and (re.search(r"restart policy: Never.*ExitCode:[1-9]", event["message"]) or _init_containers(snapshot, event))
        and not any(name in event["message"] for name in evicted)
    ]
    if not ended:
        return
    message, part = _in_words(ended[-1]["message"]), _part_of(snapshot, ended[-1])
    runs = part.worker_group != "" and any(
        objects.is_ready(pod) for pod in snapshot.pods if objects.worker_group(pod) == part.worker_group
    )
    condition: Condition = "OutOfMemory" if "OOMKilled" in message else "CrashLoop"
    namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
    advice = f"Read the log while one runs: kubectl logs -n {namespace} -l {objects.pod_selector(name)} -f"
    if init_containers := _init_containers(snapshot, ended[-1]):
        message = f"an init container ({', '.join(init_containers)}) failed: {message}"
        advice = advice.replace(" -f", " --all-containers --prefix -f")
    if condition == "OutOfMemory":
        advice = remedy(condition, cluster, part)
    elif part.is_head and (redis := cluster["spec"].get("gcsFaultToleranceOptions") or {}):
        advice = f"Check that Redis responds at {redis.get('redisAddress')}, with that password. {advice}"
    times = sum(int(event.get("count") or 1) for event in ended)
    where = objects.reference(snapshot.kind, cluster)
    yield Finding(where, condition, message, advice, times > RESTARTS and not runs, part)


def _init_containers(snapshot: Snapshot, event: Object) -> list[str]:
    """Return the init containers of a deleted pod that failed before its Ray container ran; none if it did not."""
    spec, part = snapshot.owner["spec"], _part_of(snapshot, event)
    if not re.search(r"Pod status: Failed.*terminated status: nil", event["message"]):
        return []
    workers = [group for group in spec.get("workerGroupSpecs") or () if group["groupName"] == part.worker_group]
    groups = [spec["headGroupSpec"]] if part.is_head else workers
    return [
        container["name"] for group in groups for container in group["template"]["spec"].get("initContainers") or ()
    ]


def _part_of(snapshot: Snapshot, event: Object) -> Part:
    return _part(snapshot, is_head=event["reason"] == "DeletedHeadPod", message=event["message"])


def _in_words(message: str) -> str:
    """Return KubeRay's message about a pod that ended with words in place of Go's struct of the container's status."""
    struct = r"&ContainerStateTerminated{ExitCode:(\d+),Signal:\d+,Reason:([^,]*),Message:(.*?)\s*,StartedAt:.*}"
    found = re.search(struct, message, re.DOTALL)
    return (
        message
        if found is None
        else message[: found.start()] + ", ".join(filter(None, (f"exit code {found[1]}", found[2], found[3])))
    )


def _evicted_pods(snapshot: Snapshot, recent: list[Object]) -> Iterator[Finding]:
    """Yield evictions of pods that no longer exist: KubeRay replaces them."""
    name = snapshot.owner["metadata"]["name"]
    present = {pod["metadata"]["name"] for pod in snapshot.pods}
    for event in recent:
        pod = event["involvedObject"]
        if event["reason"] == "Evicted" and pod["name"].startswith(f"{name}-") and pod["name"] not in present:
            part = _part(snapshot, is_head=f"{name}-head-" in pod["name"], message=pod["name"])
            advice = remedy("Evicted", snapshot.owner, part)
            where = f"Pod {pod['namespace']}/{pod['name']}"
            yield Finding(where, "Evicted", event["message"], advice, False, part)


def _part(snapshot: Snapshot, *, is_head: bool, message: str) -> Part:
    """Return the head, or the worker group that a message names: KubeRay's pods are ``cluster-group-worker-random``."""
    if is_head:
        return Part(snapshot.kind, is_head=True)
    groups = [group["groupName"] for group in snapshot.owner["spec"].get("workerGroupSpecs") or ()]
    longest_first = sorted(groups, key=len, reverse=True)
    return Part(snapshot.kind, worker_group=next((name for name in longest_first if f"-{name}-worker-" in message), ""))
