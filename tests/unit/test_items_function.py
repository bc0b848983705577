"""The function of a fan-out is checked before anything runs, and known by its code. No Ray."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rayworks.errors import ParameterError
from rayworks.items import function
from rayworks.items.options import FanOutOptions


class Scaler:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, item: int) -> int:
        return item * self.by


class NotCallable:
    pass


@pytest.mark.parametrize(
    ("work", "arguments"),
    [(lambda: 1, {}), (lambda a, b: 1, {}), (lambda a: 1, {"c": 2}), (Scaler, {}), (NotCallable, {})],
)
def test_a_function_that_cannot_take_an_item_is_refused(work: Any, arguments: dict[str, Any]):
    with pytest.raises(ParameterError, match="cannot be called with an item"):
        function.check_signature(work, "work", FanOutOptions(arguments=arguments))


@pytest.mark.parametrize(
    ("work", "arguments"),
    [(lambda a: 1, {}), (lambda a, b: 1, {"b": 2}), (Scaler, {"by": 2}), (str, {}), (Path, {}), (len, {}), (print, {})],
)
def test_a_function_that_can_is_not(work: Any, arguments: dict[str, Any]):
    function.check_signature(work, "work", FanOutOptions(arguments=arguments))


def times(factor: int) -> Any:
    return lambda item: item * factor


def test_what_a_function_holds_belongs_to_it():
    assert function.fingerprint(times(2)) == function.fingerprint(times(2)) != function.fingerprint(times(3))
    assert function.fingerprint(partial(max, 1)) != function.fingerprint(partial(max, 2))


def test_a_function_that_cannot_be_pickled_is_refused():
    lock = threading.Lock()
    with pytest.raises(ParameterError, match=r"cannot be sent to workers: .*lambda> \(TypeError: cannot pickle"):
        function.fingerprint(lambda item: lock)


PROGRAM = """
import sys
from rayworks.items import function
def work(item): return item in {"a", "b", "c"} and %s
print(function.fingerprint(work))
"""


def test_a_function_of_a_program_is_the_same_in_the_next_run_until_its_code_changes(tmp_path: Path):
    def fingerprint(value: int) -> str:
        program = tmp_path / "program.py"
        program.write_text(PROGRAM % value)
        return subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True).stdout

    assert fingerprint(1) == fingerprint(1) != fingerprint(2)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [(None, None), (0, 0), (3, 3), (0.05, 50), ("5%", 50), ("0.05", 50), ("7", 7), (1.0, 1), ("2.5%", 25), (".1", 100)],
)
def test_failures_are_allowed_by_number_or_by_share(given: Any, allowed: int | None):
    assert FanOutOptions(max_failures=given).failures_allowed(1000) == allowed


@pytest.mark.parametrize("given", ["-1", "many", -0.5, 1.5, "5 %"])
def test_any_other_allowance_is_refused(given: Any):
    with pytest.raises(ValidationError, match="max_failures"):
        FanOutOptions(max_failures=given)
