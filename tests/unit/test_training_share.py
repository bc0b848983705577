"""Each worker reads its shard and no other rows, and gets an equal share of the CPUs."""

from pathlib import Path

import polars as pl
import pytest

from rayworks import capacity
from rayworks.data import split_rows
from rayworks.records import Dataset, Split


@pytest.mark.parametrize(("rows", "workers"), [(10, 3), (7, 7), (2, 3), (0, 2), (1_000_003, 16)])
def test_shards_cover_all_rows_once_and_differ_by_at_most_one(rows: int, workers: int):
    ranges = [split_rows.row_range(rows, rank, workers) for rank in range(workers)]
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])]
    assert ranges[-1][1] == rows
    sizes = {last - first for first, last in ranges}
    assert max(sizes) - min(sizes) <= 1


def test_the_workers_together_read_the_rows_of_all_files_in_order(tmp_path: Path):
    numbers = pl.DataFrame({"n": range(100), "other": range(100)})
    numbers.head(33).write_parquet(tmp_path / "part-0.parquet", row_group_size=10)
    numbers.tail(67).write_parquet(tmp_path / "part-1.parquet", row_group_size=10)
    dataset = Dataset.model_construct(splits=(Split(name="train", uri=str(tmp_path), rows=100),))
    read = [list(split_rows.frames(dataset, "train", ["n"], rank=rank, world_size=3)) for rank in range(3)]
    assert [sum(len(frame) for frame in frames) for frames in read] == [33, 33, 34]
    assert pl.concat(frame for frames in read for frame in frames).to_dict(as_series=False) == {"n": list(range(100))}


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [
        ([2], 1, 2),
        ([8], 3, 2),
        ([0, 1, 1, 1], 1, 1),  # three nodes of one CPU have no place for a worker of three
        ([4, 2], 2, 2),
        ([16, 8], 2, 8),
        ([16, 8], 1, 16),
        ([0], 4, 1),  # nodes may come
        ([], 1, 1),
    ],
)
def test_workers_share_the_cpus_as_far_as_each_fits_on_a_node(nodes: list[float], workers: int, cpus: int):
    assert capacity.equal_share(nodes, workers) == cpus
    assert cpus == 1 or capacity.fitting_workers(nodes, cpus) >= workers
