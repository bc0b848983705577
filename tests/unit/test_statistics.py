"""Statistics of columns, counted by chunk and merged. No Ray."""

import polars as pl

from rayworks.data.statistics import Statistics


def test_memory_does_not_grow_with_the_distinct_values_of_a_text_column_and_frequent_ones_are_counted_exactly():
    merged = Statistics({}, distinct_at_most=100)
    for chunk in range(20):
        part = Statistics({}, distinct_at_most=100)
        different = [f"{chunk}-{number}" for number in range(1000)]
        part.add(pl.DataFrame({"text": [*different, *["often"] * 30, *["at times"] * 3]}))
        assert len(part.values["text"]) <= 200
        merged.merge(part)
        assert len(merged.values["text"]) <= 200
    record = merged.of_column("text", "categorical")
    assert (record.rows, record.missing) == (20 * 1033, 0)
    assert (record.values[:2], record.counts[:2]) == (("often", "at times"), (600, 60))
