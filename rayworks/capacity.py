"""How much of Ray's capacity the workers of a stage can have. Pure, except what asks Ray and the environment."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

GROWS = "RAYWORKS_RAY_GROWS"
"""What each kind of node has that may be added, as JSON, in Ray's workers. Ray 2.60 does not report this to them."""

NOT_ON_GPUS = {"rayworks.io/gpu": "!true"}
"""The label selector of a Ray task that requests no GPU: nodes with this label are for others.

When all groups without GPUs are at their maximum, Ray's autoscaler starts GPU nodes for any task that fits on them
(``AUTOSCALER_CONSERVE_GPU_NODES`` only makes them the last choice). Nodes without the label match.
"""


Nodes = Sequence[Mapping[str, float]]
"""The resources of nodes, by Ray's names."""


def growth_variable(nodes: Nodes | None) -> dict[str, str]:
    """Return the variable that tells workers which nodes may be added; None: any."""
    return {GROWS: json.dumps(nodes)}


def alive_nodes() -> dict[str, dict[str, Any]]:
    """Return what Ray says of its nodes that are alive, by their ids."""
    import ray

    return {node["NodeID"]: node for node in cast(Any, ray).nodes() if node["Alive"]}


def nodes_now() -> Nodes:
    """Return what each node of Ray has."""
    return [node["Resources"] for node in alive_nodes().values()]


def nodes_to_come() -> Nodes | None:
    """Return, in a worker, what each kind of node has that may be added to Ray; None if that is not known."""
    return json.loads(os.environ.get(GROWS, "[]"))


def may_grow() -> bool:
    """Return whether Ray may get more capacity than it has now."""
    return nodes_to_come() != []


def may_come(requests: Mapping[str, float], nodes: Nodes | None) -> bool:
    """Return whether a node may be added that has all that a task requests.

    Args:
        requests: By Ray's names of resources.
        nodes: The kinds of nodes that may be added; None if they are not known.
    """
    if nodes is None:
        return True
    return fits(requests, [node for node in nodes if "GPU" in requests or not NOT_ON_GPUS.keys() & node.keys()])


def equal_share(nodes: Sequence[float], workers: int) -> int:
    """Return the most whole CPUs that each of the workers can have; 1 if even that is too much.

    Args:
        nodes: The CPUs of each node. A worker runs on one node.
        workers: The number of workers.
    """
    most = int(max(nodes, default=0))
    return next((cpus for cpus in range(most, 1, -1) if fitting_workers(nodes, cpus) >= workers), 1)


def fitting_workers(nodes: Sequence[float], cpus: float) -> int:
    """Return how many workers with this many CPUs fit on all nodes together."""
    return sum(int(node // cpus) for node in nodes)


def requests_of(options: Mapping[str, Any]) -> dict[str, float]:
    """Return what a task requests of Ray, by Ray's names of resources, from the options of ``ray.remote``."""
    own = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0), "memory": options.get("memory", 0)}
    requests = {**own, **(options.get("resources") or {})}
    return {name: float(amount) for name, amount in requests.items() if amount}


def fits(requests: Mapping[str, float], nodes: Nodes) -> bool:
    """Return whether one of the nodes, each with its resources, has all that a task requests."""
    return any(all(node.get(name, 0) >= amount for name, amount in requests.items()) for node in nodes)


def shortage(requests: Mapping[str, float], now: Nodes, to_come: Nodes | None) -> str:
    """Return what the nodes have of what a task requests, as text; empty if one of them has all of it, or may come.

    Ray would wait forever for a node that has it.

    Args:
        requests: By Ray's names of resources.
        now: The nodes of Ray.
        to_come: The kinds of nodes that may be added; None if they are not known.
    """
    if fits(requests, now) or may_come(requests, to_come):
        return ""
    shares = [{name: node[name] for name in requests if name in node} for node in [*now, *(to_come or ())]]
    return "; ".join(dict.fromkeys(amounts(share) or "none of it" for share in shares)) or "there are none"


def amounts(resources: Mapping[str, float]) -> str:
    """Return resources as text: ``2 CPU, 1.5 GiB of memory``."""
    return ", ".join(
        f"{amount / 1024**3:.3g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in resources.items()
    )
