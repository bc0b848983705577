"""What a call requests of Ray, and how many calls Ray can run at a time."""

import time
from typing import Any, cast

from rayworks import capacity
from rayworks.errors import ParameterError
from rayworks.items.options import FanOutOptions

SLOTS_SECONDS = 2.0
"""How long the number of slots is taken as known."""


class Slots:
    """How many chunks the cluster can process at a time, as it is now."""

    def __init__(self, options: FanOutOptions) -> None:
        self._requests = capacity.requests_of(ray_options(options)) or {"CPU": 1.0}
        self._known, self._slots = -SLOTS_SECONDS, 0

    def __call__(self) -> int:
        import ray

        now = time.monotonic()
        if now - self._known >= SLOTS_SECONDS:
            total = cast(Any, ray).cluster_resources()
            self._slots = int(min(total.get(name, 0) / amount for name, amount in self._requests.items()))
            self._known = now
        return self._slots


def ray_options(options: FanOutOptions) -> dict[str, Any]:
    """Return what a call requests, as options of ``ray.remote``."""
    memory = {} if options.memory_gib is None else {"memory": options.memory_gib * 1024**3}
    gpus = {"num_gpus": options.num_gpus} if options.num_gpus else {}
    custom = {"resources": options.resources} if options.resources else {}
    return {"num_cpus": options.num_cpus, **gpus, **memory, **custom}


def check(options: FanOutOptions, nodes_to_come: capacity.Nodes | None) -> None:
    """Check that a node of Ray has what a call requests, or may come.

    Raises:
        ParameterError: No node has it, and none that may be added.
    """
    requests = capacity.requests_of(ray_options(options))
    if shortage := capacity.shortage(requests, capacity.nodes_now(), nodes_to_come):
        raise ParameterError(
            "no node of Ray has what a call requests",
            where=capacity.amounts(requests),
            detail=f"they have {shortage}",
            remedy="Request less",
        )
