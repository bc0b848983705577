"""What failed in Ray: the cause without the exceptions that Ray wraps around it, and whether memory ran out."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from rayworks.errors import RayworksError


def cause(error: BaseException) -> BaseException:
    """Return the ``RayworksError`` that caused ``error``, if there is one; else the innermost exception."""
    innermost, seen = error, set[int]()
    while innermost and id(innermost) not in seen:
        of_ray = getattr(innermost, "cause", None)  # a RayTaskError is an instance of its cause's class as well
        if isinstance(innermost, RayworksError) and not of_ray:
            return innermost
        seen.add(id(innermost))
        inner = of_ray or innermost.__cause__ or innermost.__context__
        if not isinstance(inner, BaseException):
            break
        innermost = inner
    return innermost


def unwrapped(error: BaseException) -> BaseException:
    """Return what failed in a Ray task, if ``error`` is Ray's report of that: its message is a trace."""
    return cause(error) if isinstance(getattr(error, "cause", None), BaseException) else error


@dataclass(frozen=True)
class MemoryReport:
    """What Ray reports of a task that it ended because its node ran out of memory."""

    node_ip: str
    """Empty if the message does not name it."""
    detail: str
    """The part of the message about the node's memory."""


def report_of_memory(errors: Iterable[BaseException]) -> MemoryReport | None:
    """Return what Ray reports if one of several errors, or its cause, is a lack of memory."""
    texts = (str(text) for error in errors for text in (error, cause(error)))
    return next((report for text in texts if (report := memory_report(text))), None)


def node_of(report: MemoryReport) -> str:
    """Return the node where memory ran out, as people know it: on Kubernetes, Ray's name of a node is that of its pod.

    Returns:
        Name and IP address, the address alone where Ray does not know the node, or an empty text.
    """
    import ray

    api = cast(Any, ray)
    nodes = sorted(api.nodes(), key=lambda node: not node["Alive"]) if report.node_ip and api.is_initialized() else []
    names = [node["NodeManagerHostname"] for node in nodes if node["NodeManagerAddress"] == report.node_ip]
    return f"node {names[0]} ({report.node_ip})" if names else f"node {report.node_ip}" if report.node_ip else ""


def memory_report(message: str) -> MemoryReport | None:
    """Read the error message of a task; return None if Ray did not end it for lack of memory.

    Ray names the node and its memory only in the text of the message.
    """
    if "OutOfMemoryError" not in message and "running low on memory" not in message:
        return None
    address = re.search(r"\(IP: ([0-9a-fA-F.:]+)", message)
    usage = re.search(r"Memory on the node.*? limit", message)
    return MemoryReport(address[1] if address else "", usage[0] if usage else message)
