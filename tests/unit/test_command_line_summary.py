"""What a command prints of its flow's result."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayworks import command_line
from rayworks.errors import DataError, note_task
from rayworks.params import ServeOptions
from rayworks.ray_error import unwrapped


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (None, []),
        (["rayworks-1", "rayworks-2"], ["rayworks-1", "rayworks-2"]),
        ([("storage", "pass: /s is writable")], ["storage pass: /s is writable"]),
        (ServeOptions(), ["host 127.0.0.1", "port 8000"]),
    ],
    ids=["nothing", "names", "pairs", "a record"],
)
def test_each_entry_of_a_result_is_a_line(result: Any, lines: list[str]):
    output = io.StringIO()
    command_line._print_summary(result, Console(file=output, width=100), 3.2)
    printed = [line.strip() for line in output.getvalue().splitlines()]
    assert [line for line in lines if line.split() not in [text.split() for text in printed]] == []
    assert printed[-1].split() == ["time", "3", "s"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (AssertionError(), "AssertionError"),
    ],
    ids=["several lines", "no message"],
)
def test_an_error_that_nobody_foresaw_is_said_with_task_and_input_and_its_traceback_is_stored(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", str(tmp_path))
    note_task(error, "train")
    sentence = command_line._unforeseen(
        pickle.loads(pickle.dumps(error)), "pipeline", {"uri": "rides.csv", "target": "fare"}
    )
    (stored,) = tmp_path.glob("errors/*.txt")
    assert (
        sentence == f"The flow pipeline failed in train (uri rides.csv): {words}. The traceback is stored in {stored}."
    )
    assert type(error).__name__ in stored.read_text()


def test_what_failed_in_a_ray_task_is_said_without_rays_trace():
    from ray.exceptions import RayTaskError

    error = RayTaskError("train", "the trace", DataError("no rows")).as_instanceof_cause()
    assert str(error).startswith("the trace")
    assert str(unwrapped(error)) == "No rows."
    assert str(unwrapped(RayTaskError("train", "the trace", KeyError("fare")))) == "'fare'"
    outer = ValueError("outer")
    outer.__cause__ = KeyError("inner")
    assert unwrapped(outer) is outer
