"""The process group by which the workers of a training communicate, as the module of the loop declares it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rayworks.errors import ParameterError

if TYPE_CHECKING:
    from ray.train.backend import BackendConfig


def _xgboost() -> "BackendConfig":
    from ray.train.xgboost import XGBoostConfig

    return XGBoostConfig()


def _torch() -> "BackendConfig":
    try:
        from ray.train.torch import TorchConfig
    except ModuleNotFoundError as error:
        raise ParameterError(
            "the training loop needs PyTorch",
            where='BACKEND = "torch"',
            detail=str(error),
            remedy="Install torch where Ray runs",
        ) from error
    return TorchConfig()


BACKENDS: "dict[str, Callable[[], BackendConfig]]" = {"xgboost": _xgboost, "torch": _torch}
"""What a loop's module may declare as ``BACKEND``, with how to create its configuration for Ray Train."""


def config(backend: str | None, workers: int) -> "BackendConfig | None":
    """Return Ray Train's configuration of the process group, or None: a single worker needs none.

    Raises:
        ParameterError: The library of the process group is not installed.
    """
    return BACKENDS[backend]() if backend and workers > 1 else None
