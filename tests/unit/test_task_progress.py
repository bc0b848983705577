"""The progress of a task run, without a Prefect API."""

import logging

import httpx
import pytest

from rayworks.prefect_api import task_progress


def test_an_api_that_is_away_does_not_fail_the_stage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def fail(*_: object, **__: object) -> None:
        raise httpx.ConnectError("away")

    shown: list[float] = []
    monkeypatch.setattr(task_progress, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(task_progress, "create_progress_artifact", fail)
    progress = task_progress.TaskProgress()
    progress(0.5, "half")
    assert "The progress could not be shown: away" in caplog.text
    monkeypatch.setattr(task_progress, "create_progress_artifact", lambda percent, description: shown.append(percent))
    progress(1.0, "done")
    assert shown == [100.0]
