"""Results and failures are stored as they are, and read back in the order of the items. No Ray."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rayworks.items import parts
from rayworks.items.parts import Failure, Format, Range


@dataclass
class Point:
    x: int


def store(folder: str, first: int, results: list[Any], *, without: tuple[int, ...] = (), format: Format = "parquet"):
    """Store results of consecutive items; those ``without`` one are failures."""
    items = Range(first, first + len(results) - 1)
    numbers = [number for number in range(items.first, items.last + 1) if number not in without]
    if without:
        parts.write_failures(folder, items, [failure(number) for number in without])
    if numbers:
        kept = [results[number - first] for number in numbers]
        parts.write_results(folder, items, parts.encode(numbers, kept, format))


def failure(item: int) -> Failure:
    return Failure(item, repr(item), "ValueError", "no", "", 1, 0.1, "node pid 1")


@pytest.mark.parametrize(
    "results",
    [
        [1, 2, -3],
        [1.5, math.inf, None],
        ["a", "ü", ""],
        [True, None, False],
        [None, None],
        [b"\x00", b""],
        [[0.5, 1.0], [], None],
        [{"a": 1, "b": "x"}, {"a": None, "b": "y"}],
        [{"a": 1}, {"b": 2}],
        [1, 2.5],
        [True, 1],
        [2**70, 1],
        [(1, 2), {3}, Point(4)],
        [{"item": 1}],
        [{}],
        ["\ud83d"],
        [[1, "a"]],
        [{"deep": {"er": [1]}}],
    ],
    ids=repr,
)
def test_results_come_back_with_their_values_and_types(tmp_path: Path, results: list[Any]):
    store(str(tmp_path), 0, results)
    read = list(parts.read_results(str(tmp_path)))
    assert read == list(enumerate(results))
    assert [type(result) for _, result in read] == [type(result) for result in results]


def test_plain_results_are_columns_that_any_reader_understands(tmp_path: Path):
    store(str(tmp_path), 5, [{"name": "a", "size": 1}, {"name": "b", "size": 2}])
    store(str(tmp_path), 7, [{"name": "c", "size": None}])
    table = pl.read_parquet(tmp_path / "results" / "*.parquet")
    assert table.to_dict(as_series=False) == {"item": [5, 6, 7], "name": ["a", "b", "c"], "size": [1, 2, None]}


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_files_are_read_in_the_order_of_the_items(place: str, format: Format):
    store(place, 10, ["k", "l"], format=format)
    store(place, 0, ["a", "b", "c"], format=format)
    assert list(parts.read_results(place)) == [(0, "a"), (1, "b"), (2, "c"), (10, "k"), (11, "l")]


def test_nothing_is_read_where_nothing_is_stored(place: str):
    assert list(parts.read_results(place)) == list(parts.read_failures(place)) == []
    assert parts.missing(place, 3) == [Range(0, 2)]


def test_missing_are_the_items_without_a_result(place: str):
    store(place, 2, list("cdefg"), without=(3, 4, 6))
    store(place, 9, ["j"])
    assert parts.missing(place, 12) == [Range(0, 1), Range(3, 4), Range(6, 6), Range(7, 8), Range(10, 11)]


def test_a_retried_item_takes_its_place_among_the_others(place: str):
    store(place, 0, list("abcdef"), without=(1, 2, 4))
    store(place, 1, ["B", "C"], without=(2,))
    store(place, 4, ["E"])
    assert list(parts.read_results(place)) == [(0, "a"), (1, "B"), (3, "d"), (4, "E"), (5, "f")]
    assert [failed.item for failed in parts.read_failures(place)] == [2]
    assert parts.missing(place, 6) == [Range(2, 2)]


def test_items_that_failed_again_count_once_and_can_be_retried_again(place: str):
    store(place, 0, list("abc"), without=(1,))
    store(place, 1, ["b"], without=(1,))
    assert [failed.item for failed in parts.read_failures(place)] == [1]
    assert parts.missing(place, 3) == [Range(1, 1)]
    assert parts.missing(place, 3) == [Range(1, 1)]


def test_a_chunk_of_failures_alone_is_processed_again_in_other_ranges(place: str):
    store(place, 0, list("abcd"), without=(0, 1, 2, 3))
    assert len(list(parts.read_failures(place))) == 4
    assert parts.missing(place, 8) == [Range(0, 7)]
    parts.delete_failures_without_results(place)
    assert parts.missing(place, 8) == [Range(0, 7)]
    store(place, 0, list("ab"))
    store(place, 2, list("cdef"))
    assert list(parts.read_failures(place)) == []


def test_an_item_whose_result_was_stored_twice_is_read_once(place: str):
    store(place, 0, list("abcd"))
    store(place, 2, list("cdef"))
    assert list(parts.read_results(place)) == list(enumerate("abcdef"))
    assert parts.missing(place, 6) == []


def test_failures_come_back_as_they_were(tmp_path: Path):
    store(str(tmp_path), 0, list("ab"), without=(1,))
    assert list(parts.read_failures(str(tmp_path))) == [failure(1)]


def test_a_result_that_cannot_be_stored_is_named():
    import threading

    assert "cannot pickle" in (parts.problem_of(threading.Lock(), "parquet") or "")
    assert "not JSON serializable" in (parts.problem_of({1, 2}, "jsonl") or "")
    assert parts.problem_of({1, 2}, "parquet") is None


def test_a_result_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "MOST_BYTES", 1000)
    assert "store it, and return where" in (parts.problem_of({"a": bytes(2000), 1: 2}, "parquet") or "")
