"""Bounded work over Ray: one call for each item, on whichever workers have capacity."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from rayworks.errors import ClusterError, RayworksError
from rayworks.ray_error import report_of_memory

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_unordered(work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[ResultT]:
    """Call ``work`` on each item in Ray's workers, and yield the results as they arrive, in no particular order.

    Ray Data schedules the calls: it runs as many at a time as there is capacity, retries a call whose worker was lost,
    and holds back when results arrive faster than they are consumed. Neither many items nor a slow consumer exhaust
    memory.

    Args:
        work: Sent to the workers by cloudpickle, with everything it refers to. It may be called more than once for an
            item, so calling it again must do no harm.
        items: Sent along with ``work``: descriptions of the work (a file, a range of rows), not the data.

    Yields:
        What ``work`` returned. It must be picklable, and small: it passes through the driver.

    Raises:
        ClusterError: A worker ran out of memory, also when Ray called ``work`` again.
        RayworksError: The first that ``work`` raised, of its own class. Other exceptions are raised as Ray wraps them.
    """
    if not items:
        return
    import ray.data

    def call(row: dict[str, Any]) -> dict[str, Any]:
        try:
            result = work(items[row["item"]])
        except RayworksError as error:  # returned, not raised: the exception that Ray Data raises has another class
            result = error
        return {"result": pickle.dumps(result)}  # bytes have a type in Arrow; objects are pickled with a warning

    ray.data.DataContext.get_current().enable_progress_bars = False
    numbers = ray.data.from_items(list(range(len(items))), override_num_blocks=len(items))
    rows = iter(numbers.map(call).iter_rows())
    while (row := _next(rows)) is not None:
        result = pickle.loads(row["result"])
        if isinstance(result, RayworksError):
            raise result
        yield cast(ResultT, result)


def _next(rows: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the next row, or None at the end. Raise ``ClusterError`` if Ray ended a call for lack of memory."""
    try:
        return next(rows, None)
    except Exception as error:
        report = report_of_memory([error])
        if report is None:
            raise
        raise ClusterError(
            "a worker ran out of memory",
            where=f"node {report.node_ip}".removesuffix("node "),
            detail=report.detail,
            remedy="Give the Ray nodes more memory, or fewer CPUs each, so that fewer calls run at once on a node",
        ) from error
