"""How a stage's progress is shown while its Prefect task runs: in the run's log, and as a progress artifact."""

import logging
import time
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.states import Completed
from prefect.states import State

logger = logging.getLogger(__name__)

ARTIFACT_SECONDS = 1.0  # a request to the API each
LOG_SECONDS = 10.0


class TaskProgress:
    """A ``Progress`` that belongs to the task run in which it was made; it may be called from any thread."""

    def __init__(self) -> None:
        self._artifact: UUID = create_progress_artifact(0.0, description="starting")  # type: ignore[assignment]
        self._shown = self._logged = 0.0

    def __call__(self, fraction: float, message: str) -> None:
        now = time.monotonic()
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            logger.info(message)
        if now - self._shown > ARTIFACT_SECONDS or fraction >= 1:
            self._shown = now
            update_progress_artifact(self._artifact, progress=100 * min(max(fraction, 0.0), 1.0), description=message)


def reused(record: Any, where: str) -> State[Any]:
    """The state of a task whose result was there already: Prefect shows it as Cached."""
    message = f"Reused {where}: nothing that it is made from has changed"
    logger.info(message)
    return Completed(name="Cached", message=message, data=record)
