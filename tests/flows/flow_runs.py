"""Run a function as a flow on Ray, and read what the Prefect server shows of the run."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import State

from rayworks import RayTaskRunner, resources
from tests.waiting import eventually

FINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


Run = Callable[[Callable[[], Any]], State[Any]]
"""The fixture ``run``: runs a function as a flow, and returns the flow run's last state."""


@task
def fail() -> None:
    raise ValueError("an error of the task")


@task
def add(first: Any, second: Any = 1) -> Any:
    return first + second


@task
@resources(max_retries=0)
def end_process() -> None:
    os._exit(1)


@task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


@task
def total_of(named: dict[str, list[int]]) -> int:
    return sum(named["all"])


def note(file: Path, word: str) -> None:
    with file.open("a") as notes:
        notes.write(f"{word} ")


def on_ray(body: Callable[..., Any]) -> Any:
    return flow(task_runner=RayTaskRunner(), name="tested")(body)


def run(body: Callable[..., Any], *arguments: Any) -> State[Any]:
    """The last state of a flow with ``body``."""
    return on_ray(body)(*arguments, return_state=True)


def shown_task_runs(client: SyncPrefectClient, flow_run_id: object) -> list[dict[str, Any]]:
    """The task runs that the server shows of a flow run at this moment."""
    of_flow_run = {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}}
    return client.request("POST", "/task_runs/filter", json=of_flow_run).json()


def task_runs(client: SyncPrefectClient, state: State[Any], number: int) -> list[dict[str, Any]]:
    """The task runs that the server shows of a flow run, once that many of them have ended."""

    def ended() -> list[dict[str, Any]]:
        runs = shown_task_runs(client, state.state_details.flow_run_id)
        # The server stores the type first, and the state itself a moment later.
        final = [run for run in runs if run["state_type"] in FINAL_STATES and run["state"]]
        return final if len(final) == number else []

    return eventually(ended)


def task_name(task_run: dict[str, Any]) -> str:
    """The name of the task of a task run, whose own name has a suffix."""
    return task_run["name"].rpartition("-")[0]


def log_line(client: SyncPrefectClient, state: State[Any], text: str) -> dict[str, Any]:
    """The line of the flow run's log that contains ``text``."""
    run_id = str(state.state_details.flow_run_id)
    query = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}

    def lines_with_text() -> list[dict[str, Any]]:
        lines = client.request("POST", "/logs/filter", json=query).json()
        return [line for line in lines if text in line["message"]]

    return eventually(lines_with_text)[0]
