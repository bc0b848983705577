"""Which states task runs get that ended without one, and what that costs. A Prefect API of dictionaries, no Ray."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import prefect.client.orchestration
import pytest

from rayworks.errors import ClusterError
from rayworks.runner.crashes import report_crashed_task_runs
from rayworks.runner.in_flight import InFlight, SubmittedTaskRun
from rayworks.runner.session import RaySession


class Api:
    """The part of Prefect's client that is used: it knows no task run until one is created."""

    def __init__(self) -> None:
        self.messages: dict[Any, str] = {}
        """Of the states, by the ids of the task runs."""

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_task_runs(self, task_run_filter: Any) -> list[Any]:
        return []

    def create_task_run(self, *_: Any, id: Any, state: Any, **__: Any) -> None:
        self.messages[id] = state.message


class Session(RaySession):
    """Knows an explanation for every error, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def explain(self, task: str, error: BaseException) -> ClusterError:
        self.asked += 1
        return ClusterError(f"{task} ran out of memory")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()
    monkeypatch.setattr(prefect.client.orchestration, "get_client", lambda **_: api)
    return api


def task_run(task: str = "work") -> SubmittedTaskRun:
    return SubmittedTaskRun(SimpleNamespace(name=task), uuid4(), "a state", object())  # type: ignore[arg-type]


def in_flight(*task_runs: SubmittedTaskRun) -> InFlight:
    """Task runs on Ray, which no thread collects."""
    runs = InFlight(outbox=None)  # type: ignore[arg-type]
    runs._task_runs = {run.end: run for run in task_runs}
    return runs


def test_a_cancelled_task_run_is_not_explained(api: Api):
    from ray.exceptions import TaskCancelledError

    session, runs = Session(), in_flight()
    runs.crashed = [(task_run(), TaskCancelledError())]
    report_crashed_task_runs(uuid4(), runs, session)
    assert list(api.messages.values()) == ["Its Ray task was cancelled, or its worker process ended."]
    assert session.asked == 0


def test_the_same_error_of_a_task_is_explained_once(api: Api):
    from ray.exceptions import WorkerCrashedError

    session, runs = Session(), in_flight()
    runs.crashed = [(task_run(task), WorkerCrashedError()) for task in ("first", "second") for _ in range(100)]
    report_crashed_task_runs(uuid4(), runs, session)
    assert len(api.messages) == 200
    assert set(api.messages.values()) == {"First ran out of memory.", "Second ran out of memory."}
    assert session.asked == 2


def test_a_task_run_of_a_lost_cluster_that_the_api_does_not_know_is_not_created(api: Api):
    runs = in_flight(task_run(), task_run())
    runs.abandon()
    assert len(runs.crashed) == 2
    report_crashed_task_runs(uuid4(), runs, Session())
    assert api.messages == {}
