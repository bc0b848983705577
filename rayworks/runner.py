"""The task runner of every flow: Prefect's states, logs and retries, with the work on Ray.

The only module that knows prefect_ray. Library code that runs in a task logs by ``logging.getLogger(__name__)``.
"""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from prefect_ray import RayTaskRunner as PrefectRayTaskRunner
from prefect_ray.context import RemoteOptionsContext
from prefect_ray.task_runners import PrefectRayFuture

from rayworks import prefect_server
from rayworks.cluster import connection, preflight
from rayworks.errors import ClusterError
from rayworks.runner_worker import TaskCall, attach_run_log, run_task
from rayworks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput
    from prefect.futures import PrefectFuture
    from prefect.tasks import Task

logger = logging.getLogger(__name__)
MarkedT = TypeVar("MarkedT")

PREFLIGHT_SECONDS = 60
"""How long a worker may take to start and answer the first question."""
GRACE_SECONDS = 3.0
"""How long a cancelled task may take to report its end, before its process is killed."""


def resources(**options: Any) -> Callable[[MarkedT], MarkedT]:
    """Declare what a task needs of Ray, such as ``num_cpus=0``, ``num_gpus``, ``memory`` (bytes) or ``resources``.

    All that ``ray.remote`` takes is allowed, also ``max_retries``. The mark sits on the task's function, so that it
    stays through ``task.with_options``; ``prefect_ray.remote_options`` around a submit wins over it::

        @task
        @resources(num_cpus=0)
        def coordinate(): ...
    """

    def mark(target: MarkedT) -> MarkedT:
        getattr(target, "fn", target).__dict__["ray_options"] = options
        return target

    return mark


class RayTaskRunner(PrefectRayTaskRunner[Any]):
    """Runs each task of a flow as a Ray task.

    Args:
        address: A running Ray: ``auto``, ``host:port`` or ``ray://host:port``. By default ``RAYWORKS_RAY_ADDRESS``,
            read when the flow starts; without that, a Ray of this process's own.
        init_kwargs: More arguments for ``ray.init``.

    A task and the flow run's context are sent to Ray when the task is first submitted in a flow run, so later changes
    of a variable that the task's function closes over are not seen by its later runs.
    """

    def __init__(self, address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(address=address, init_kwargs=init_kwargs)
        self._shared: dict[int, tuple[Any, Any]] = {}
        self._calls: dict[UUID, tuple[Any, Any]] = {}
        self._names: set[str] = set()
        self._stack = contextlib.ExitStack()
        self._checked: Callable[[], None] = _nothing
