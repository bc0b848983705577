"""The failure of a task that ran out of memory, from the error message that Ray gives it. Pure."""

from rayworks.errors import ClusterError
from rayworks.ray_error import memory_report

REMEDY = (
    "Declare what the task needs with @resources(memory=...), let it retry with more by max_memory, "
    "or give the Ray nodes more memory"
)


def explain(task: str, message: str) -> ClusterError | None:
    """Return the failure of a task that Ray ended for lack of memory; None if it failed for another reason.

    Args:
        task: Name of the task.
        message: The error message that Ray gave.
    """
    report = memory_report(message)
    return failure(task, f"node {report.node_ip}".strip(), report.detail, REMEDY) if report else None


def failure(task: str, where: str, detail: str, remedy: str) -> ClusterError:
    return ClusterError(f"the task {task} ran out of memory", where=where, detail=detail, remedy=remedy)
