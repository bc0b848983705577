"""What keeps a pod of a Ray cluster from running, whatever kind of object owns it. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from rayworks.cluster.kubernetes import objects
from rayworks.cluster.kubernetes.conditions import (
    AUTOSCALER_SECONDS,
    IMAGE_SECONDS,
    MISSING_SECONDS,
    PASSING_TAINT,
    PULL_FAILURES,
    RECENT_SECONDS,
    RESTARTS,
    SLOW_SECONDS,
    UNSCHEDULABLE,
    Condition,
    first_match,
)
from rayworks.cluster.kubernetes.finding import Finding, Snapshot, about_pod
from rayworks.cluster.kubernetes.objects import Object, age

NODE_LOST_REASONS = ("DeletionByTaintManager", "DeletionByPodGC")
"""Reasons of the condition DisruptionTarget that mean that the pod's node is lost."""


@dataclass(frozen=True)
class _Pod:
    """A pod with what its rules read."""

    pod: Object
    events: list[Object]
    """About the pod, the newest last."""
    snapshot: Snapshot
    now: datetime

    @property
    def status(self) -> Object:
        return self.pod["status"]

    @property
    def age(self) -> float:
        """Seconds since a node took the pod."""
        return age(self.status.get("startTime"), self.now)

    def finding(self, condition: Condition, detail: str, *, is_final: bool, container: str = "") -> Finding:
        return about_pod(self.pod, self.snapshot.kind, condition, detail, is_final=is_final, container=container)


def check(pod: Object, snapshot: Snapshot, now: datetime) -> Finding | None:
    """Return what keeps a pod from running, the nearest to the cause; None if nothing is known.

    Args:
        pod: One of the snapshot's pods.
        snapshot: For events, nodes, and the kind of the owner.
        now: The time of the snapshot.
    """
    observed = _Pod(pod, objects.events_about(pod, snapshot.events), snapshot, now)
    conditions = objects.conditions(pod)
    scheduled = conditions.get("PodScheduled", {})
    if _is_node_lost(observed, conditions):
        return _node_lost(observed)
    if objects.is_being_deleted(pod):
        return None
    disruption = conditions.get("DisruptionTarget", {})
    if disruption.get("reason") or observed.status.get("reason") in ("Evicted", "Preempting"):
        detail = observed.status.get("message") or disruption.get("message", "")
        return observed.finding("Evicted", detail, is_final=False)
    if scheduled.get("reason") == "SchedulingGated":
        return observed.finding("Queued", scheduled["message"], is_final=False)
    if scheduled.get("reason") == "Unschedulable":
        return _unschedulable(observed, scheduled)
    if scheduled.get("status") == "True":
        return _scheduled(observed)
    return None


# The node


def _is_node_lost(observed: _Pod, conditions: dict[str, Object]) -> bool:
    ready, events = conditions.get("Ready", {}), observed.events
    is_silent = ready.get("status") == "False" and (
        (conditions.get("ContainersReady", {}).get("status") == "True" and not ready.get("reason"))
        or (bool(events) and events[-1]["reason"] == "NodeNotReady")
    )
    disruption = conditions.get("DisruptionTarget", {}).get("reason")
    return is_silent or disruption in NODE_LOST_REASONS or observed.status.get("reason") == "NodeLost"


def _node_lost(observed: _Pod) -> Finding:
    messages = [event["message"] for event in observed.events if event["reason"] == "NodeNotReady"]
    message = messages[-1] if messages else "Node is not ready"
    node = observed.pod["spec"].get("nodeName", "")
    return observed.finding("NodeLost", f"{message}: {node}", is_final=False)


# Containers


def _scheduled(observed: _Pod) -> Finding | None:
    """Return what is wrong with a pod that has a node."""
    status = observed.status
    for container in status.get("initContainerStatuses", ()):
        if finding := _container(container, observed):
            return replace(finding, detail=f"init container {container['name']}: {finding.detail}")
    for container in status.get("containerStatuses", ()):
        if finding := _container(container, observed):
            return finding
    if objects.is_ready(observed.pod) or observed.age < SLOW_SECONDS or status["phase"] != "Pending":
        return None
    # No rule knows it by name: the newest warning is the best there is.
    warnings = [event for event in observed.events if event.get("type") == "Warning" and event["reason"] != "Unhealthy"]
    if warnings and "failed to sync" not in warnings[-1]["message"]:
        return observed.finding("NotStarted", warnings[-1]["message"], is_final=False)
    return None


def _container(container: Object, observed: _Pod) -> Finding | None:
    state = container.get("state") or {}
    if "waiting" in state and (finding := _waiting(state["waiting"], container["name"], observed)):
        return finding
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    return (
        _out_of_memory(container, ended, observed)
        or _unready_probe(container, observed)
        or _crash(container, ended, observed)
    )


def _waiting(waiting: Object, container: str, observed: _Pod) -> Finding | None:
    """Return why a container could not be created yet."""
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if "Image" in reason:
        return _image(reason, message, container, observed)
    is_final = observed.age >= MISSING_SECONDS
    if reason == "CreateContainerConfigError":
        condition = "ConfigMissing" if re.search("not found|couldn't find", message) else "InvalidManifest"
        return observed.finding(condition, message, is_final=is_final, container=container)
    mounts = [event["message"] for event in observed.events if event["reason"] == "FailedMount"]
    missing = [message for message in mounts if '" not found' in message]
    if reason == "ContainerCreating" and missing:
        return observed.finding("ConfigMissing", missing[-1], is_final=is_final, container=container)
    return None


def _image(reason: str, message: str, container: str, observed: _Pod) -> Finding:
    failures = [event["message"] for event in observed.events if event["message"].startswith("Failed to pull image")]
    if failures and message.startswith("Back-off") and "ErrImagePull" not in message:
        message = failures[-1]
    condition = first_match(PULL_FAILURES, message)
    is_final = condition == "ImageNotFound" and (reason == "InvalidImageName" or observed.age >= IMAGE_SECONDS)
    return observed.finding(condition, message, is_final=is_final, container=container)


def _out_of_memory(container: Object, ended: Object, observed: _Pod) -> Finding | None:
    is_recent = age(ended.get("finishedAt"), observed.now) < RECENT_SECONDS
    if ended.get("reason") != "OOMKilled" or (container.get("ready") and not is_recent):
        return None
    detail = f"OOMKilled, exit code {ended['exitCode']}, {container.get('restartCount', 0)} restarts"
    return observed.finding("OutOfMemory", detail, is_final=_keeps_failing(container), container=container["name"])


def _unready_probe(container: Object, observed: _Pod) -> Finding | None:
    name, state = container["name"], container.get("state") or {}
    failures = [event["message"].strip(" :\n") for event in observed.events if event["reason"] == "Unhealthy"]
    if container.get("ready") or not failures:
        return None
    killing = " ".join(event["message"] for event in observed.events if event["reason"] == "Killing")
    killed_by = tuple(probe for probe in ("Liveness", "Startup") if f"{name} failed {probe.lower()} probe" in killing)
    is_slow = "running" in state and age(state["running"].get("startedAt"), observed.now) >= SLOW_SECONDS
    if not killed_by and not is_slow:
        return None
    # The probes fail one after the other: the one to name is the one that restarts the container.
    causes = [failure for failure in failures if failure.startswith(killed_by)] or failures
    detail = f"{causes[-1]}, {container.get('restartCount', 0)} restarts"
    is_final = bool(killed_by) and _keeps_failing(container)
    return observed.finding("UnreadyProbe", detail, is_final=is_final, container=name)


def _crash(container: Object, ended: Object, observed: _Pod) -> Finding | None:
    is_running = "running" in (container.get("state") or {})
    if container.get("ready") or not ended or (is_running and not _keeps_failing(container)):
        return None
    details = (
        f"{ended.get('reason', 'Error')}, exit code {ended['exitCode']}",
        ended.get("message", "").strip(),
        f"{container.get('restartCount', 0)} restarts",
    )
    detail = ", ".join(filter(None, details))
    return observed.finding("CrashLoop", detail, is_final=_keeps_failing(container), container=container["name"])


def _keeps_failing(container: Object) -> bool:
    return container.get("restartCount", 0) >= RESTARTS and not container.get("ready")


# Scheduling


def _unschedulable(observed: _Pod, scheduled: Object) -> Finding:
    """Return why no node takes a pod. The reasons of all nodes decide: a node that only lacks capacity may get it."""
    message = scheduled["message"]
    reasons, _, preemption = message.partition("preemption:")
    autoscaler = _autoscaler_events(observed.events)
    detail = f"{message} {autoscaler[-1]['message']}" if autoscaler else message
    conditions = _node_conditions(reasons)
    if "UntoleratedTaint" in conditions and observed.snapshot.nodes:
        taints = _taints_of_matching_nodes(observed)
        detail = f"{detail} {', '.join(taints)}" if taints else detail
        replacement = _condition_of_taints(taints)
        conditions = [replacement if condition == "UntoleratedTaint" else condition for condition in conditions]
    if "NoRoom" in conditions:
        condition: Condition = "TooLarge" if _is_too_large(reasons, preemption, detail) else "NoRoom"
    else:
        order: tuple[Condition, ...] = ("VolumeUnbound", "UntoleratedTaint", "UnmatchedAffinity")
        condition = next(condition for condition in order if condition in conditions)
    waited = age(scheduled.get("lastTransitionTime"), observed.now)
    if condition == "VolumeUnbound":
        failures = _claim_failures(observed)
        detail = f"{detail} {failures[-1]}" if failures else detail
        return observed.finding(condition, detail, is_final='" not found' in detail and waited >= MISSING_SECONDS)
    may_add_nodes = any(event["reason"] != "NotTriggerScaleUp" for event in autoscaler)
    is_final = condition != "NoRoom" and not may_add_nodes and waited >= AUTOSCALER_SECONDS
    return observed.finding(condition, detail, is_final=is_final)


def _autoscaler_events(events: Iterable[Object]) -> list[Object]:
    return [event for event in events if event["reason"] in ("TriggeredScaleUp", "Nominated", "NotTriggerScaleUp")]


def _node_conditions(reasons: str) -> list[Condition]:
    """Return the condition of each group of nodes in a scheduler's ``0/3 nodes are available: 1 …, 2 ….``"""
    groups = re.split(r", (?=\d+ )", reasons.partition("nodes are available: ")[2])
    return [first_match(UNSCHEDULABLE, group) for group in groups]


def _taints_of_matching_nodes(observed: _Pod) -> list[str]:
    """Return ``node has taint`` for each node that the pod would take but for its taints."""
    matching = [node for node in observed.snapshot.nodes if objects.matches_node(observed.pod, node)]
    taints = {node["metadata"]["name"]: objects.untolerated_taints(observed.pod, node) for node in matching}
    return [f"{name} has {taint}" for name, taint in taints.items() if taint]


def _condition_of_taints(taints: list[str]) -> Condition:
    if any(re.search(PASSING_TAINT, taint) for taint in taints):
        return "NoRoom"
    return "UntoleratedTaint" if taints else "UnmatchedAffinity"


def _is_too_large(reasons: str, preemption: str, detail: str) -> bool:
    """Return whether even an empty node is too small: the scheduler finds that preempting other pods would not help."""
    is_useless = re.fullmatch(
        r" 0/(\d+) nodes are available: \1 Preemption is not helpful for scheduling\.?", preemption
    )
    return bool(is_useless) and "Insufficient" in reasons and not re.search(PASSING_TAINT, detail)


def _claim_failures(observed: _Pod) -> list[str]:
    """Return the warnings about the pod's volume claims."""
    volumes = observed.pod["spec"].get("volumes", ())
    claims = {(volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in volumes}
    return [
        event["message"]
        for event in observed.snapshot.events
        if event.get("type") == "Warning"
        and event["involvedObject"].get("kind") == "PersistentVolumeClaim"
        and event["involvedObject"]["name"] in claims
    ]
