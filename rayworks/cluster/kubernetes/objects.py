"""Plain access to objects of the Kubernetes API.

Objects are dictionaries with the API's own names, as ``kubectl get -o json`` prints them.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Object = dict[str, Any]


# Any object


def reference(kind: str, thing: Mapping[str, Any]) -> str:
    """Return ``Kind namespace/name``."""
    return f"{kind} {thing['metadata']['namespace']}/{thing['metadata']['name']}"


def owner_reference(owner: Mapping[str, Any]) -> Object:
    """Return an entry for ``metadata.ownerReferences``: Kubernetes deletes the object with its owner."""
    metadata = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}


def is_being_deleted(thing: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in thing["metadata"]


def conditions(thing: Mapping[str, Any]) -> dict[str, Object]:
    """Return the conditions of an object's status, by their types."""
    status = thing.get("status") or {}
    return {condition["type"]: condition for condition in status.get("conditions") or ()}


def age(moment: str | None, now: datetime) -> float:
    """Return the seconds since a timestamp; 0 without one."""
    if not moment:
        return 0.0
    then = datetime.fromisoformat(moment)
    return (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


# Events


def events_about(thing: Mapping[str, Any], events: Iterable[Object]) -> list[Object]:
    """Return the events about an object, the newest last."""
    uid = thing["metadata"].get("uid")
    return sorted((event for event in events if event["involvedObject"].get("uid") == uid), key=last_seen)


def last_seen(event: Mapping[str, Any]) -> str:
    """Return when an event was last seen: the field depends on the client that wrote it."""
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or ""


# Pods of Ray clusters


def pod_selector(cluster: str) -> str:
    """Return the label selector for the pods of a RayCluster."""
    return f"ray.io/cluster={cluster}"


def is_head(pod: Mapping[str, Any]) -> bool:
    return (pod["metadata"].get("labels") or {}).get("ray.io/node-type") == "head"


def worker_group(pod: Mapping[str, Any]) -> str:
    """Return the worker group of a pod; empty for a head."""
    return "" if is_head(pod) else (pod["metadata"].get("labels") or {}).get("ray.io/group", "")


def ray_container(pod: Mapping[str, Any]) -> Object:
    """Return the status of the container in which KubeRay runs Ray, the first of the pod; empty if there is none."""
    name = pod["spec"]["containers"][0]["name"]
    return next((status for status in pod["status"].get("containerStatuses") or () if status["name"] == name), {})


def is_ready(pod: Mapping[str, Any]) -> bool:
    return conditions(pod).get("Ready", {}).get("status") == "True"


def progress(pod: Mapping[str, Any], now: datetime) -> str:
    """Return how far a pod is that is not ready: its phase, and the container that it waits for."""
    status = pod["status"]
    is_in_phase = f"{pod['metadata']['name']} is {status.get('phase')}"
    for container in status.get("initContainerStatuses") or ():
        running = (container.get("state") or {}).get("running")
        if running and not container.get("ready"):
            seconds = age(running.get("startedAt"), now)
            return f"{is_in_phase}, its init container {container['name']} has run for {seconds:.0f} s"
    for container in status.get("containerStatuses") or ():
        if waiting := (container.get("state") or {}).get("waiting"):
            return f"{is_in_phase}, {waiting.get('reason')}"
    return f"{is_in_phase}, not ready"


# Pods and nodes


def untolerated_taints(pod: Object, node: Object) -> str:
    """Return the taints of a node that keep a pod away, as ``key=value:effect``."""
    taints = [taint for taint in node["spec"].get("taints") or () if taint["effect"] != "PreferNoSchedule"]
    tolerations = pod["spec"].get("tolerations") or ()
    return ", ".join(
        f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
        for taint in taints
        if not any(_tolerates(toleration, taint) for toleration in tolerations)
    )


def _tolerates(toleration: Object, taint: Object) -> bool:
    return (
        toleration.get("key", taint["key"]) == taint["key"]
        and toleration.get("effect", taint["effect"]) == taint["effect"]
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
    )


def matches_node(pod: Object, node: Object) -> bool:
    """Return whether a node has the labels that a pod requires. Operators but In and Exists count as matching."""
    labels, spec = node["metadata"].get("labels") or {}, pod["spec"]
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or ({},)
    return any(all(_matches(rule, labels) for rule in term.get("matchExpressions") or ()) for term in terms)


def _matches(rule: Object, labels: Mapping[str, str]) -> bool:
    if rule["operator"] == "In":
        return labels.get(rule["key"]) in rule["values"]
    return rule["operator"] != "Exists" or rule["key"] in labels


# Quantities and quotas


def quantity(text: str) -> Decimal:
    """Return a Kubernetes quantity as a number: ``500m``, ``2``, ``1536Mi``."""
    number, suffix = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([a-zA-Z]*)", text).groups()  # type: ignore[union-attr]
    if suffix == "m":
        return Decimal(number) * Decimal("0.001")
    power = " kMGTPE".find((suffix or " ")[0].replace("K", "k"))
    return Decimal(number) * Decimal(1024 if suffix.endswith("i") else 1000) ** power


def may_fit_quota_later(message: str, pods: Iterable[Object]) -> bool:
    """Return whether a pod that a quota refused would fit if all pods but the cluster's own were deleted.

    Args:
        message: The refusal: ``exceeded quota: …, requested: …, used: …, limited: …``.
        pods: The cluster's own.
    """
    requested, limits = _amounts(r"requested: (.*?), used:", message), _amounts(r"limited: (.*)$", message)
    return all(
        _used(resource, pods) + quantity(amount) <= quantity(limits.get(resource, "0"))
        for resource, amount in requested.items()
    )


def _amounts(pattern: str, message: str) -> dict[str, str]:
    match = re.search(pattern, message)
    return dict(item.split("=", 1) for item in re.split(", ?", match[1])) if match else {}


def _used(resource: str, pods: Iterable[Object]) -> Decimal:
    """Return how much of a quota's resource the pods use.

    Args:
        resource: ``pods``, ``limits.memory``, ``requests.cpu`` or in short ``cpu``.
        pods: The pods.
    """
    if resource in ("pods", "count/pods"):
        return Decimal(sum(1 for _ in pods))
    bound, name = resource.split(".", 1) if resource.startswith(("requests.", "limits.")) else ("requests", resource)
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    amounts = [(container.get("resources") or {}).get(bound, {}).get(name, "0") for container in containers]
    return sum(map(quantity, amounts), Decimal(0))
