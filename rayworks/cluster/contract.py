"""The contract of a cluster: what the runner and the doctor need of the place where Ray runs."""

import concurrent.futures
from collections.abc import Mapping
from typing import Any, Protocol

from rayworks.capacity import Nodes
from rayworks.errors import ClusterError


class Cluster(Protocol):
    """A place where Ray runs, and this process's connection to it."""

    lost: "concurrent.futures.Future[ClusterError]"
    """Gets the reason when Ray ends before :meth:`release`, so that callers stop waiting for its results."""
    is_elsewhere: bool
    """Whether Ray runs where this machine's local paths and loopback addresses do not exist."""

    def nodes_to_come(self) -> Nodes | None:
        """Return what each kind of node has that may be added to Ray; None if that is not known.

        Raises:
            RayworksError: What describes the cluster cannot be read.
        """
        ...

    def why_none_comes(self, requests: Mapping[str, float]) -> str:
        """Return why no node is added that has what a task requests; empty if that is not known."""
        ...

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        """Start Ray if this cluster is to be started, and connect this process to it.

        Args:
            environment: Environment variables for Ray's workers.
            init_kwargs: More arguments for ``ray.init``.

        Raises:
            ClusterError: Ray cannot be started or reached. Nothing that was started is left.
        """
        ...

    def release(self) -> None:
        """Disconnect this process, and end what :meth:`acquire` started."""
        ...

    def dashboard(self) -> str | None:
        """Return the URL of the Ray dashboard, or how to reach it; None if there is none. Needs a connection."""
        ...

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        """Return why Ray could not finish a task, if the cluster knows more than the error.

        Args:
            task: Name of the task.
            error: What Ray raised.
        """
        ...
