"""How much of Ray's capacity the workers of a stage can have. Pure, except :func:`may_grow`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

GROWS = "RAYWORKS_RAY_GROWS"
"""Set to 1 in Ray's workers if an autoscaler may add nodes. Ray 2.60 does not report this to them."""

NOT_ON_GPUS = {"rayworks.io/gpu": "!true"}
"""The label selector of a Ray task that requests no GPU: nodes with this label are for others.

When all groups without GPUs are at their maximum, Ray's autoscaler starts GPU nodes for any task that fits on them
(``AUTOSCALER_CONSERVE_GPU_NODES`` only makes them the last choice). Nodes without the label match.
"""


def may_grow() -> bool:
    """Return whether Ray may get more capacity than it has now."""
    return os.environ.get(GROWS) == "1"


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


def fits(requests: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Return whether one of the nodes, each with its resources, has all that a task requests."""
    return any(all(node.get(name, 0) >= amount for name, amount in requests.items()) for node in nodes)


def amounts(resources: Mapping[str, float]) -> str:
    """Return resources as text: ``2 CPU, 1.5 GiB of memory``."""
    return ", ".join(
        f"{amount / 1024**3:.3g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in resources.items()
    )
