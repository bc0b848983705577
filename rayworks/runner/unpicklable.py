"""Finds the variable that makes a task impossible to pickle. Ray's own message names neither the task nor the flow."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from rayworks.errors import TransferError, named

if TYPE_CHECKING:
    from prefect.tasks import Task


def explain(task: "Task[..., Any]", parameters: Mapping[str, Any], error: Exception) -> TransferError | None:
    """Return why a task run could not be sent; None if ``error`` has another reason than pickling.

    Args:
        task: The task. Its flow is sent with it when the task is the first one of the flow run.
        parameters: Of the task run.
        error: What Ray raised.
    """
    name, flow_run = f"task '{task.name}'", FlowRunContext.get()
    candidates: dict[str, Any] = {f"the function of {name}": task.fn, name: task}
    candidates |= {f"parameter '{key}' of {name}": value for key, value in parameters.items()}
    if flow_run and flow_run.flow:
        flow = f"flow '{flow_run.flow.name}', which is sent with its first {name},"
        candidates |= {f"the function of {flow}": flow_run.flow.fn, flow: flow_run.flow}
        candidates |= {f"parameter '{key}' of {flow}": value for key, value in (flow_run.parameters or {}).items()}
    remedy = "Create it within the task, or pass what it is created from"
    return _first_unpicklable(candidates, error, "cannot be sent to a worker", remedy)


def explain_result(task: "Task[..., Any]", result: Any, error: Exception) -> TransferError:
    """Return why the result of a task cannot be sent to the driver. ``error`` is what Ray raised."""
    name = f"the result of task '{task.name}'"
    remedy = "Return plain data, or what the driver can create it from"
    error_of_part = _first_unpicklable({name: result}, error, "cannot be sent to the driver", remedy)
    return error_of_part or TransferError(f"{name} cannot be sent to the driver", detail=_cause(error), remedy=remedy)


def _first_unpicklable(
    candidates: Mapping[str, Any], error: Exception, problem: str, remedy: str
) -> TransferError | None:
    """Return an error for the first candidate that cannot be pickled.

    Args:
        candidates: Functions and values, by what to call them in the message.
        error: What Ray raised.
        problem: What the message says of the candidate.
        remedy: What to do about it.
    """
    from ray.util import inspect_serializability

    for name, candidate in candidates.items():
        picklable, failures = inspect_serializability(candidate, name=name, print_file=io.StringIO())
        if picklable:
            continue
        _, *path = next(iter(failures)).path
        return TransferError(
            f"{name} {problem}",
            where=f"its variable {'.'.join(path)}" if path else "",
            detail=_cause(error),
            remedy=remedy,
        )
    return None


def _cause(error: BaseException) -> str:
    """Return what pickle raised, without the pages that Ray adds to it."""
    while error.__cause__:
        error = error.__cause__
    return named(error)
