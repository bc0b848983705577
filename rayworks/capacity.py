"""How much of Ray a stage's workers can have. Pure, but for :func:`may_grow`."""

import os
from collections.abc import Sequence

GROWS = "RAYWORKS_RAY_GROWS"
"""Set for Ray's workers where an autoscaler may add nodes. Ray 2.60 does not expose this: only its starter knows."""


def may_grow() -> bool:
    """Whether what has no room now may have it later."""
    return os.environ.get(GROWS) == "1"


def equal_share(nodes: Sequence[float], workers: int) -> int:
    """The most whole CPUs that each of the workers can have; 1 where even that is too much.

    Args:
        nodes: The CPUs of each node. A worker is on one node.
        workers: How many workers there are.
    """
    most = int(max(nodes, default=0))
    return next((cpus for cpus in range(most, 1, -1) if places(nodes, cpus) >= workers), 1)


def places(nodes: Sequence[float], cpus: float) -> int:
    """How many workers of so many CPUs the nodes hold together."""
    return sum(int(node // cpus) for node in nodes)
