"""Chunks grow with what is learned of the items, and shrink towards the end. No Ray."""

import math

import pytest

from rayworks.items.chunk_size import ChunkSize


def sizes(item_seconds: float, items: int, *, slots: int = 2, item_bytes: int = 8, elapsed: float = 0.0) -> list[int]:
    """The sizes of all chunks when each ends before the next one begins."""
    size, remaining, chosen = ChunkSize(), items, list[int]()
    while remaining:
        count = size.next(remaining, slots, elapsed)
        size.learn(count, count * item_seconds, count * item_bytes)
        chosen.append(count)
        remaining -= count
    return chosen


def test_the_first_chunk_is_one_item_and_quick_chunks_grow_fast():
    assert sizes(1e-6, 10_000_000)[:5] == [1, 32, 1024, 32_768, 1_000_000]


def test_a_chunk_that_takes_a_moment_is_followed_by_at_most_twice_as_many_items():
    assert sizes(0.06, 10_000)[:6] == [1, 2, 4, 8, 16, 17]


def test_a_million_items_of_a_microsecond_take_few_chunks():
    assert len(sizes(1e-6, 1_000_000)) < 20


def test_items_of_ten_minutes_are_a_chunk_each():
    assert sizes(600, 100) == [1] * 100


def test_a_chunk_takes_a_second_at_first_and_ten_in_a_long_run():
    assert max(sizes(0.01, 100_000)) == 100
    assert max(sizes(0.01, 100_000, elapsed=3600)) == 1000


def test_the_last_chunks_are_small_so_that_all_slots_end_together():
    assert sizes(0.05, 1000)[-4:] == [1, 1, 1, 1]


def test_large_results_make_small_chunks():
    assert max(sizes(1e-6, 1000, item_bytes=32 * 1024**2)) == 4


def test_a_class_that_is_built_for_each_chunk_is_used_for_long():
    size = ChunkSize()
    size.learn(100, 1.0, 800, repeated=30.0)
    size.largest = 1_000_000
    assert size.next(10_000_000, 2, 0.0) * size.item_seconds == pytest.approx(600)


def test_a_chunk_goes_on_for_a_few_times_what_it_should_take_and_one_of_a_chosen_size_to_its_end():
    assert ChunkSize().longest_seconds(elapsed=0) == 3
    assert ChunkSize().longest_seconds(elapsed=3600) == 30
    assert ChunkSize(fixed=300).longest_seconds(elapsed=0) == math.inf


def test_a_size_that_the_user_chose_holds_to_the_end():
    size = ChunkSize(fixed=300)
    assert [size.next(1000, 8, 0), size.next(100, 8, 0)] == [300, 100]
