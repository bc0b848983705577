"""A chunk calls the function on each item once, and each failure is of its item alone. No Ray."""

import contextlib
import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rayworks.errors import ParameterError
from rayworks.items import chunk, parts
from rayworks.items.chunk import Chunk, Outcome, Work
from rayworks.items.options import FanOutOptions
from rayworks.items.parts import Failure, Range
from rayworks.items.sources import Inline


def process(folder: Path, function: Any, items: list[Any], **options: Any) -> tuple[Outcome, list[Any], list[Failure]]:
    """Process the items as one chunk. Returns its outcome, the results in order, and the failures."""
    work = Work(function, FanOutOptions(**options), str(folder))
    part = Inline(items).part(0, len(items))
    outcome = chunk.process(work, Chunk(Range(0, len(items) - 1), part))
    return outcome, list(parts.read_results(str(folder))), list(parts.read_failures(str(folder)))


def test_each_item_is_called_once_and_in_order(tmp_path: Path):
    called: list[int] = []

    def work(number: int) -> int:
        called.append(number)
        return number * 2

    outcome, results, _ = process(tmp_path, work, list(range(5000)))
    assert called == list(range(5000))
    assert results == [(number, 2 * number) for number in range(5000)]
    assert (outcome.items, outcome.failed) == (5000, 0)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError(), StopIteration(5)], ids=repr)
def test_an_item_that_raises_leaves_its_neighbours_alone(tmp_path: Path, error: BaseException):
    def work(number: int) -> int:
        if number in (0, 500, 999):
            raise error
        return number

    outcome, results, failures = process(tmp_path, work, list(range(1000)))
    assert [failure.item for failure in failures] == [0, 500, 999]
    assert [number for number, _ in results] == [n for n in range(1000) if n not in (0, 500, 999)]
    assert all(number == result for number, result in results)
    assert outcome.failed == 3


def test_a_failure_says_what_happened_to_which_item(tmp_path: Path):
    _, _, (failure,) = process(tmp_path, lambda text: int(text), ["1", "one"])
    assert (failure.item, failure.value, failure.kind, failure.attempts) == (1, "'one'", "ValueError", 1)
    assert failure.error == "invalid literal for int() with base 10: 'one'"
    assert "int(text)" in failure.traceback


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_chunk_whose_items_take_longer_than_was_known_gives_back_those_that_are_left(
    tmp_path: Path, batch_size: int | None
):
    called: list[int] = []

    def work(numbers: Any) -> Any:
        called.extend([numbers] if batch_size is None else numbers)
        time.sleep(0.02)
        return numbers

    options = FanOutOptions(batch_size=batch_size)
    given = Chunk(Range(100, 199), Inline(range(200)).part(100, 100), longest_seconds=0.1)
    outcome = chunk.process(Work(work, options, str(tmp_path)), given)
    assert 1 < outcome.items < 100
    assert outcome.rest == Range(100 + outcome.items, 199)
    assert called == [number for number, _ in parts.read_results(str(tmp_path))] == list(range(100, outcome.rest.first))
    assert parts.missing(str(tmp_path), 200) == [Range(0, 99), outcome.rest]


def test_a_chunk_calls_one_item_however_long_that_takes(tmp_path: Path):
    given = Chunk(Range(0, 1), Inline([0.05, 0.0]).part(0, 2), longest_seconds=0.0)
    outcome = chunk.process(Work(time.sleep, FanOutOptions(), str(tmp_path)), given)
    assert (outcome.items, outcome.rest) == (1, Range(1, 1))


def test_arguments_are_the_same_in_each_call(tmp_path: Path):
    _, results, _ = process(tmp_path, lambda number, plus: number + plus, [1, 2], arguments={"plus": 10})
    assert results == [(0, 11), (1, 12)]


def test_a_class_is_built_once_for_several_chunks(tmp_path: Path):
    built = itertools.count(1)

    class Adder:
        def __init__(self, plus: int) -> None:
            self.number, self.plus = next(built), plus

        def __call__(self, item: int) -> list[int]:
            return [self.number, item + self.plus]

    work = Work(Adder, FanOutOptions(arguments={"plus": 1}), str(tmp_path))
    for first in (0, 2):
        chunk.process(work, Chunk(Range(first, first + 1), Inline([5, 6]).part(0, 2)))
    assert list(parts.read_results(str(tmp_path))) == [(0, [1, 6]), (1, [1, 7]), (2, [1, 6]), (3, [1, 7])]


def test_a_class_that_cannot_be_built_ends_the_run_with_a_sentence(tmp_path: Path):
    class Broken:
        def __init__(self) -> None:
            raise OSError("no weights")

        def __call__(self, item: int) -> None: ...

    with pytest.raises(ParameterError, match=r"^The class cannot be built: .*Broken \(OSError: no weights\)"):
        process(tmp_path, Broken, [1])


def test_a_batch_that_fails_is_halved_until_the_item_stands_alone(tmp_path: Path):
    sizes: list[int] = []

    def work(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        if 5 in numbers:
            raise ValueError("five")
        return [number + 1 for number in numbers]

    _, results, failures = process(tmp_path, work, list(range(10)), batch_size=8)
    assert [number for number, _ in results] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert all(result == number + 1 for number, result in results)
    assert [failure.item for failure in failures] == [5]
    assert sizes == [8, 4, 4, 2, 1, 1, 2, 2]


def test_a_batch_with_the_wrong_number_of_results_is_a_failure_and_not_a_shift(tmp_path: Path):
    _, results, failures = process(tmp_path, lambda numbers: [n for n in numbers if n != 2], [1, 2, 3], batch_size=3)
    assert results == [(0, 1), (2, 3)]
    assert failures[0].error == "the function returned 0 results for 1 items"


def test_a_failed_item_is_retried_with_growing_delays(tmp_path: Path):
    calls: list[float] = []

    def work(number: int) -> int:
        if number == 1:
            calls.append(time.monotonic())
            if len(calls) < 4:
                raise ConnectionError("busy")
        return number

    _, results, failures = process(tmp_path, work, [0, 1, 2], retries=3, retry_seconds=0.05)
    assert results == [(0, 0), (1, 1), (2, 2)]
    assert failures == []
    first, second, third = (later - earlier for earlier, later in itertools.pairwise(calls))
    assert first >= 0.05
    assert second >= 0.1
    assert third >= 0.2


def test_an_item_that_always_fails_is_attempted_as_often_as_allowed(tmp_path: Path):
    _, _, (failure,) = process(tmp_path, lambda number: 1 // number, [0], retries=2, retry_seconds=0)
    assert failure.attempts == 3


def test_an_item_that_takes_too_long_is_interrupted_even_if_it_catches_everything(tmp_path: Path):
    def work(number: int) -> int:
        while number == 1:
            with contextlib.suppress(Exception):
                time.sleep(60)
        return number

    started = time.monotonic()
    _, results, (failure,) = process(tmp_path, work, [0, 1, 2], timeout_seconds=0.3)
    assert time.monotonic() - started < 5
    assert results == [(0, 0), (2, 2)]
    assert (failure.item, failure.kind, failure.error) == (1, "Timeout", "no result within 0.3 s")
    assert 0.3 <= failure.seconds < 1


def test_the_time_limit_is_of_a_call_and_not_of_a_chunk(tmp_path: Path):
    _, results, failures = process(tmp_path, lambda number: time.sleep(0.05), list(range(20)), timeout_seconds=0.4)
    assert len(results) == 20
    assert failures == []


def test_nothing_of_a_time_limit_is_left_afterwards(tmp_path: Path):
    process(tmp_path, str, [1], timeout_seconds=0.1)
    time.sleep(0.3)  # a signal that was left would end this process


def test_a_result_that_cannot_be_stored_is_a_failure_of_its_item(tmp_path: Path):
    outcome, results, (failure,) = process(
        tmp_path, lambda number: threading.Lock() if number == 1 else {number}, [0, 1, 2]
    )
    assert results == [(0, {0}), (2, {2})]
    assert (failure.item, failure.kind) == (1, "UnstorableResult")
    assert "cannot pickle" in failure.error
    assert outcome.failed == 1


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("cannot parse a\udcff"), "cannot parse a\\udcff"),
        (MuteError(), "<MuteError, whose str raises RuntimeError>"),
    ],
    ids=["no Unicode", "no text"],
)
def test_a_failure_whose_text_cannot_be_stored_is_of_its_item_alone(tmp_path: Path, error: Exception, text: str):
    def work(number: int) -> int:
        if number == 1:
            raise error
        return number

    _, results, (failure,) = process(tmp_path, work, [0, 1, 2])
    assert [number for number, _ in results] == [0, 2]
    assert (failure.item, failure.kind, failure.error) == (1, type(error).__name__, text)


def test_json_lines_hold_item_and_result(tmp_path: Path):
    process(tmp_path, lambda number: {"square": number**2}, [3, 4], format="jsonl")
    (file,) = (tmp_path / "results").iterdir()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"item": 0, "result": {"square": 9}},
        {"item": 1, "result": {"square": 16}},
    ]


def test_the_slowest_items_are_known(tmp_path: Path):
    def work(number: int) -> None:
        time.sleep(0.2 if number == 3 else 0.0)

    outcome, _, _ = process(tmp_path, work, list(range(100)))
    slowest = outcome.slowest[0]
    assert slowest.first <= 3 < slowest.first + slowest.count
    assert slowest.seconds >= 0.2


def test_a_retry_that_takes_long_is_named_by_its_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    called: list[int] = []

    def work(number: int) -> None:
        called.append(number)
        if number == 1:
            time.sleep(0.5 if called.count(1) == 2 else 0.0)
            raise ValueError("no")

    options, part = FanOutOptions(retries=1, retry_seconds=0), Inline(range(3)).part(0, 3)
    chunk.process(Work(work, options, str(tmp_path), stall_seconds=0.2), Chunk(Range(0, 2), part))
    assert capsys.readouterr().err.startswith("Item 1 has taken ")


def test_a_call_that_takes_long_is_named_with_what_it_is_doing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def work(number: int) -> None:
        time.sleep(0.5 if number == 2 else 0.0)

    part = Inline(range(4)).part(0, 4)
    chunk.process(Work(work, FanOutOptions(), str(tmp_path), stall_seconds=0.2), Chunk(Range(10, 13), part))
    named = capsys.readouterr().err
    assert named.startswith("Item 12 has taken 0 s. Its calls, the innermost last:\n  File")
    assert named.count("has taken") == 1
    assert "time.sleep(0.5 if number == 2 else 0.0)" in named
