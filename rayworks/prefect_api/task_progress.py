"""How a stage's progress is shown while its Prefect task runs: in the run's log, and as a progress artifact."""

import time
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

ARTIFACT_SECONDS = 1.0  # a request to the API each
LOG_SECONDS = 10.0


class TaskProgress:
    """A ``Progress`` that belongs to the task run in which it was made. After the first call, any thread may call it."""

    def __init__(self) -> None:
        self._logger = get_run_logger()
        self._artifact: UUID | None = None
        self._shown = self._logged = 0.0

    def __call__(self, fraction: float, message: str) -> None:
        now = time.monotonic()
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            self._logger.info(message)
        if self._artifact is None:
            self._shown = now
            self._artifact = create_progress_artifact(100 * fraction, description=message)  # type: ignore[assignment]
        elif now - self._shown > ARTIFACT_SECONDS or fraction >= 1:
            self._shown = now
            update_progress_artifact(self._artifact, progress=100 * min(max(fraction, 0.0), 1.0), description=message)


def reused(record: Any, where: str) -> State[Any]:
    """The state of a task whose result was there already: Prefect shows it as Cached."""
    message = f"Reused {where}: nothing that it is made from has changed"
    get_run_logger().info(message)
    return Completed(name="Cached", message=message, data=record)
