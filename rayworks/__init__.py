"""Prefect flows whose tasks run on Ray, and the stages that take data to a served model.

These names are the public interface. Each is imported when it is first used, so ``import rayworks`` loads nothing, and
:class:`RayTaskRunner` costs what Prefect's own import costs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayworks.errors import (
        ClusterError,
        ClusterLostError,
        DataError,
        ItemsError,
        MissingExtraError,
        ParameterError,
        RayworksError,
        RegistryError,
        ServingError,
        StorageError,
        TrainingError,
        TransferError,
    )
    from rayworks.items.fan_out import fan_out
    from rayworks.items.result import FanOutResult
    from rayworks.models.contract import Model, StoredModel, TrainContext
    from rayworks.runner.resources import resources
    from rayworks.runner.session import ray_running
    from rayworks.runner.task_runner import RayTaskRunner

__version__ = "0.1.0"

__all__ = [
    "ClusterError",
    "ClusterLostError",
    "DataError",
    "FanOutResult",
    "ItemsError",
    "MissingExtraError",
    "Model",
    "ParameterError",
    "RayTaskRunner",
    "RayworksError",
    "RegistryError",
    "ServingError",
    "StorageError",
    "StoredModel",
    "TrainContext",
    "TrainingError",
    "TransferError",
    "__version__",
    "fan_out",
    "ray_running",
    "resources",
]

_MODULES = {
    "ClusterError": "rayworks.errors",
    "ClusterLostError": "rayworks.errors",
    "DataError": "rayworks.errors",
    "FanOutResult": "rayworks.items.result",
    "ItemsError": "rayworks.errors",
    "MissingExtraError": "rayworks.errors",
    "Model": "rayworks.models.contract",
    "ParameterError": "rayworks.errors",
    "RayTaskRunner": "rayworks.runner.task_runner",
    "RayworksError": "rayworks.errors",
    "RegistryError": "rayworks.errors",
    "ServingError": "rayworks.errors",
    "StorageError": "rayworks.errors",
    "StoredModel": "rayworks.models.contract",
    "TrainContext": "rayworks.models.contract",
    "TrainingError": "rayworks.errors",
    "TransferError": "rayworks.errors",
    "fan_out": "rayworks.items.fan_out",
    "ray_running": "rayworks.runner.session",
    "resources": "rayworks.runner.resources",
}
"""The module that defines each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
