"""Bounded work over Ray: one task for each item, on whichever workers have capacity."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar, cast

from rayworks.capacity import NOT_ON_GPUS
from rayworks.errors import ClusterError
from rayworks.ray_error import cause, report_of_memory

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

IN_FLIGHT = 256
"""How many tasks are submitted at a time: more than most clusters have CPUs, so that an autoscaler sees the demand."""


def map_unordered(work: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """Call ``work`` on each item in a Ray task with one CPU, and yield the results as they arrive, in any order.

    At most :data:`IN_FLIGHT` tasks are submitted, or have results that are not consumed yet: neither many items nor a
    slow consumer exhaust memory. Ray retries a task whose worker was lost. When the first failure is raised, or the
    consumer stops, the other tasks are cancelled.

    Args:
        work: Sent to Ray's object store once, by cloudpickle, with everything it refers to. It may be called more than
            once for an item, so calling it again must do no harm.
        items: Descriptions of the work (a file, a range of rows), not the data.

    Yields:
        What ``work`` returned. It must be picklable, and small: it passes through this process.

    Raises:
        ClusterError: A worker ran out of memory, also when Ray called ``work`` again.
        Exception: The first that ``work`` raised.
    """
    import ray
    from ray.exceptions import RayError

    api = cast(Any, ray)
    call, shared = api.remote(num_cpus=1, label_selector=NOT_ON_GPUS)(_call), api.put(work)
    tasks = (call.remote(shared, item) for item in items)  # submitted when they are taken
    in_flight = list(islice(tasks, IN_FLIGHT))
    try:
        while in_flight:
            (done, *_), in_flight = api.wait(in_flight)
            yield api.get(done)
            in_flight += islice(tasks, 1)
    except RayError as error:
        if report := report_of_memory([error]):
            raise ClusterError(
                "a worker ran out of memory",
                where=f"node {report.node_ip}".removesuffix("node "),
                detail=report.detail,
                remedy="Give the Ray nodes more memory, or fewer CPUs each, so that fewer tasks run at once on a node",
            ) from error
        raise cause(error) from error
    finally:
        for task in in_flight:
            api.cancel(task)


def _call(work: Callable[[ItemT], ResultT], item: ItemT) -> ResultT:
    return work(item)
