"""What the worker groups of a RayCluster add to Ray, and why none of them does. Pure."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayworks import capacity
from rayworks.cluster.kubernetes import diagnosis, objects
from rayworks.cluster.kubernetes.finding import Snapshot
from rayworks.cluster.kubernetes.objects import Object

STANDARD = {"CPU": ("num-cpus", "cpu"), "GPU": ("num-gpus", "gpu"), "memory": ("memory", "memory")}
"""Ray's names of resources, each with its name in ``rayStartParams`` and the end of its name in a container."""


def nodes(cluster: Mapping[str, Any]) -> list[dict[str, float]] | None:
    """Return what a worker of each group has, by Ray's names of resources, for groups that may have workers.

    None where a quantity cannot be read: KubeRay and the API server say why.
    """
    try:
        return [_resources(group) for group in _groups(cluster) if _most(group, cluster)]
    except (ValueError, AttributeError, TypeError):
        return None


def why_none_comes(requests: Mapping[str, float], snapshot: Snapshot, now: datetime) -> str:
    """Return why no worker comes that has what a task requests; empty if the manifest does not tell.

    Args:
        requests: By Ray's names of resources.
        snapshot: The RayCluster with its pods and events.
        now: The time of the snapshot.
    """
    cluster = snapshot.owner
    if nodes(cluster) is None:
        return ""
    groups = [group for group in _groups(cluster) if _most(group, cluster)]
    fitting = [group for group in groups if capacity.may_come(requests, [_resources(group)])]
    if not fitting:
        have = "; ".join(f"{group['groupName']}: {_amounts(group)}" for group in groups)
        return (
            f"No worker group has as much ({have or 'there is none'}): request less by @resources, or change the "
            "manifest of the RayCluster"
        )
    return ". ".join(_state(group, snapshot, now) for group in fitting)


def _state(group: Object, snapshot: Snapshot, now: datetime) -> str:
    """Return what becomes of the workers of a group."""
    name, most = group["groupName"], _most(group, snapshot.owner)
    for finding in diagnosis.findings(snapshot, now):
        if finding.part.worker_group == name:
            return str(diagnosis.error(finding)).removesuffix(".")
    pods = [pod for pod in snapshot.pods if objects.worker_group(pod) == name and not objects.is_being_deleted(pod)]
    starting = [pod for pod in pods if not objects.is_ready(pod)]
    if starting:
        return f"A worker of group {name} starts: {objects.progress(starting[0], now)}"
    if len(pods) >= most:
        return f"Worker group {name} is at its maximum of {most}"
    return f"Worker group {name} has {len(pods)} of at most {most} workers, and Ray's autoscaler has asked for no other"


def _amounts(group: Object) -> str:
    return capacity.amounts({name: own for name, own in _resources(group).items() if name not in capacity.NOT_ON_GPUS})


def _groups(cluster: Mapping[str, Any]) -> list[Object]:
    return cluster["spec"].get("workerGroupSpecs") or []


def _most(group: Object, cluster: Mapping[str, Any]) -> int:
    """Return how many workers a group may have."""
    bound = "maxReplicas" if cluster["spec"].get("enableInTreeAutoscaling") else "replicas"
    return int(group.get(bound, 0)) * int(group.get("numOfHosts", 1))


def _resources(group: Object) -> dict[str, float]:
    """Return what a worker has, as Ray's autoscaler reads it (``ray.autoscaler._private.kuberay``, Ray 2.60).

    A group that work without GPUs avoids has its label as a resource.
    """
    own, parameters = group.get("resources") or {}, group.get("rayStartParams") or {}
    container = group["template"]["spec"]["containers"][0].get("resources") or {}
    found: dict[str, float] = {}
    for name, (parameter, ending) in STANDARD.items():
        bounds = (*(container.get("limits") or {}).items(), *(container.get("requests") or {}).items())
        of_container = [amount for key, amount in bounds if key == ending or key.endswith(f"/{ending}")]
        amounts = [own[name]] if name in own else [parameters[parameter]] if parameter in parameters else of_container
        if amounts:
            found[name] = math.ceil(objects.quantity(str(amounts[0])))
    custom = own or json.loads(str(parameters.get("resources", "{}")).strip("'\"").replace("\\", ""))
    found |= {name: float(objects.quantity(str(amount))) for name, amount in custom.items() if name not in STANDARD}
    return found | {label: 1.0 for label in capacity.NOT_ON_GPUS if label in (group.get("labels") or {})}
