"""The table of task runs in the terminal, from task runs that no server has."""

import io
from typing import Any

import pytest
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Completed, Failed, Running
from rich.console import Console

from rayworks import run_progress


def line(state: State[Any], percent: float = 0.0, description: str = "") -> run_progress.TaskLine:
    values: dict[str, Any] = {"name": "train-0a1", "task_key": "train", "dynamic_key": "0", "state": state}
    run = TaskRun.model_validate({**values, "state_type": state.type, "state_name": state.name})
    return run_progress._task_line(run, percent, description)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (Running(), "40 % round 3"),
        (Completed(message="all done"), "round 3"),
        (Completed(name="Cached", message="Reused /data"), "Reused /data"),
        (Failed(message="Task run encountered an exception DataError: no rows"), "DataError: no rows"),
        (Failed(message="ValueError: first\nsecond"), "ValueError: first"),
        (Cancelled(message="cancelled"), "round 3"),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_a_line_has_the_progress_of_a_task_run_or_the_reason_of_its_end(state: State[Any], message: str):
    shown = line(state, 40.0, "round 3")
    assert (shown.name, shown.state, shown.message) == ("train", state.name, message)


def test_a_task_run_without_progress_has_an_empty_message():
    assert line(Running()).message == ""


def test_messages_are_printed_verbatim():
    output = io.StringIO()
    lines = [line(Failed(message="bad [/red] value"))]
    Console(file=output, width=100).print(run_progress.table(lines))
    assert "✗" in output.getvalue()
    assert "bad [/red] value" in output.getvalue()
