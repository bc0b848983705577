"""What a command prints of its flow's result."""

import io
from typing import Any

import pytest
from rich.console import Console

from rayworks import command_line
from rayworks.params import ServeOptions


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
