"""Bounded work over Ray: one task for each item, on whichever workers have capacity."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar, cast

from rayworks import task_threads
from rayworks.capacity import NOT_ON_GPUS
from rayworks.errors import ClusterError
from rayworks.ray_error import cause, node_of, report_of_memory

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

IN_FLIGHT = 256
"""How many tasks are submitted at a time: more than most clusters have CPUs, so that an autoscaler sees the demand."""


def map_unordered(
    work: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    in_flight: int | Callable[[], int] = IN_FLIGHT,
    on_failure: Callable[[ItemT, Exception], ResultT] | None = None,
    interrupts: bool = False,
    **ray_options: Any,
) -> Iterator[ResultT]:
    """Call ``work`` on each item in a Ray task, and yield the results as they arrive, in any order.

    At most ``in_flight`` tasks are submitted, or have results that are not consumed yet, which bounds memory. Ray
    retries a task whose worker was lost. When a failure is raised, or the consumer stops, other tasks are cancelled.

    Args:
        work: Sent to Ray's object store once, by cloudpickle, with everything it refers to. It may be called more than
            once for an item, so calling it again must do no harm.
        items: Descriptions of the work (a file, a range of rows), not the data. They are taken when they are submitted,
            so that they may depend on earlier results; after each result they are asked again, also if there were none.
        in_flight: The most tasks that are submitted at a time, or a function that returns it.
        on_failure: Takes an item and what it raised, and returns what to yield for it. None: it is raised.
        interrupts: When tasks are cancelled, end their worker processes, whatever they do.
        **ray_options: Of each task, as for ``ray.remote``. One CPU by default.

    Yields:
        What ``work`` returned. It must be picklable, and small: it passes through this process.

    Raises:
        ClusterError: A worker ran out of memory, also when Ray called ``work`` again.
        Exception: The first that ``work`` raised.
    """
    import ray
    from ray.exceptions import RayError

    api = cast(Any, ray)
    selector = {} if ray_options.get("num_gpus") else {"label_selector": NOT_ON_GPUS}
    call, shared = api.remote(**{"num_cpus": 1, **selector, **ray_options})(_call), api.put(work)
    waiting, tasks = iter(items), dict[Any, ItemT]()

    def submit() -> None:
        most = in_flight if isinstance(in_flight, int) else in_flight()
        for item in islice(waiting, max(most - len(tasks), 0)):
            tasks[call.remote(shared, item)] = item

    try:
        submit()
        while tasks:
            (done, *_), _ = api.wait(list(tasks))
            item = tasks.pop(done)
            try:
                result = api.get(done)
            except RayError as error:
                if on_failure is None:
                    raise explained(error) from error
                result = on_failure(item, error)
            yield result
            submit()
    finally:
        for task in tasks:
            api.cancel(task, force=interrupts)


def explained(error: Exception) -> BaseException:
    """Return what ``work`` raised, or that its worker ran out of memory."""
    report = report_of_memory([error])
    if report is None:
        return cause(error)
    return ClusterError(
        "a worker ran out of memory",
        where=node_of(report),
        detail=report.detail,
        remedy="Give the Ray nodes more memory, or fewer CPUs each, so that fewer tasks run at once on a node",
    )


def _call(work: Callable[[ItemT], ResultT], item: ItemT) -> ResultT:
    task_threads.process.set()
    return work(item)
