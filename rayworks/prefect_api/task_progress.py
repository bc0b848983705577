"""A stage as a Prefect task: it is reused if its result exists, else it runs and reports its progress."""

import time
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from rayworks.reuse import RecordT, Stage, StageRecord

ARTIFACT_SECONDS = 1.0  # each update is a request to the API
LOG_SECONDS = 10.0


class TaskProgress:
    """A ``Progress`` for the task run that creates it: lines in its log and a progress artifact.

    After the first call, any thread may call it.
    """

    def __init__(self) -> None:
        self._logger = get_run_logger()
        self._artifact: UUID | None = None
        self._shown = self._logged = 0.0

    def __call__(self, fraction: float, message: str) -> None:
        now = time.monotonic()
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            self._logger.info(message)
        if self._artifact is None or now - self._shown > ARTIFACT_SECONDS or fraction >= 1:
            self._shown = now
            try:
                self._show(100 * min(max(fraction, 0.0), 1.0), message)
            except httpx.HTTPError as error:  # the work goes on while the API is away
                self._logger.warning("The progress could not be shown: %s", error)

    def _show(self, percent: float, message: str) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=message)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._artifact, progress=percent, description=message)


def run_stage(stage: Stage[RecordT]) -> RecordT:
    """Find the result of ``stage`` or create it, for a task to return.

    A task run that reuses a result ends in the state *Cached*, with a message that names the result.

    Returns:
        The record of the result. Where it is reused, this is a state that holds the record: a task returns it, and
        Prefect hands the record to everyone who asks for the task's result.
    """
    record = stage.find()
    return stage.create(TaskProgress()) if record is None else cast(RecordT, _cached(record))


def _cached(record: StageRecord) -> State[Any]:
    message = f"Reused {record.uri}: nothing it depends on has changed"
    get_run_logger().info(message)
    return Completed(name="Cached", message=message, data=record)
