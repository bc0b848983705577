"""What a task requests of Ray: the ``resources`` mark on its function, and the options of a submit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rayworks.capacity import NOT_ON_GPUS
from rayworks.runner import _private

if TYPE_CHECKING:
    from prefect.tasks import Task

MarkedT = TypeVar("MarkedT")


def resources(**options: Any) -> Callable[[MarkedT], MarkedT]:
    """Declare what a task requests of Ray, such as ``num_cpus=0``, ``num_gpus``, ``memory`` (bytes) or ``resources``.

    All options of ``ray.remote`` are allowed, ``max_retries`` and ``max_calls`` among them. In addition:

    - A task with ``max_memory`` (bytes) that runs out of memory is run again with twice as much, up to that limit.
    - A task with ``shared_storage=True`` runs only if the workers reach the storage of the driver
      (``RAYWORKS_STORAGE_URI``).

    The mark is on the task's function, so it stays through ``task.with_options``. Options of a
    ``prefect_ray.remote_options`` block around the submit take precedence::

        @task
        @resources(num_cpus=0)
        def coordinate(): ...
    """

    def mark(target: MarkedT) -> MarkedT:
        getattr(target, "fn", target).__dict__["ray_options"] = options
        return target

    return mark


@dataclass(frozen=True)
class TaskOptions:
    """The options of one task run for Ray."""

    options: dict[str, Any]
    """What ``.options()`` of a remote function takes."""
    max_calls: int
    """How many task runs a worker process serves; 0 for any number. Ray takes it when a function is made remote."""
    max_memory: float | None
    """Bytes of memory up to which the task run is repeated; None for no repetition."""
    shared_storage: bool
    """Whether the workers must share the driver's storage."""

    @classmethod
    def of(cls, task: "Task[..., Any]") -> Self:
        """Return the options of a task that is submitted now."""
        options = {**getattr(task.fn, "ray_options", {}), **_private.remote_options()}
        # With GPUs it is 1, as in Ray: only the end of a process frees the memory that it holds on a GPU.
        max_calls = options.pop("max_calls", 1 if options.get("num_gpus") else 0)
        if not options.get("num_gpus"):
            options.setdefault("label_selector", NOT_ON_GPUS)
        max_memory = options.pop("max_memory", None)
        shared_storage = bool(options.pop("shared_storage", False))
        return cls(options, max_calls, max_memory, shared_storage)
