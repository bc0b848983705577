"""Bounded work over a real Ray: each item once, and errors as they were raised."""

import pytest

from rayworks import parallel
from rayworks.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_session")


def test_every_item_gives_one_result():
    assert sorted(parallel.map_unordered(lambda number: number**2, range(10))) == [n**2 for n in range(10)]


def test_results_may_be_any_picklable_object():
    assert list(parallel.map_unordered(lambda word: {word: {len(word)}}, ["four"])) == [{"four": {4}}]


def test_no_items_give_no_results():
    assert list(parallel.map_unordered(str, [])) == []


def test_a_rayworks_error_keeps_its_class_and_its_sentence():
    def refuse(number: int) -> None:
        if number == 3:
            raise DataError("the row is empty", where=f"row {number}", remedy="Fix it")

    with pytest.raises(DataError, match=r"^The row is empty: row 3\. Fix it\.$"):
        list(parallel.map_unordered(refuse, range(5)))
