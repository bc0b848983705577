# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# pyarrow has no types.
"""Read the rows of a split, or one worker's shard of them, directly from storage.

Contiguous shards need no shuffle and do not harm trees, whose histograms are summed over all workers. Reading Parquet
directly saves the start and the copies of a Ray Data ingest, for data that a worker holds in memory anyway.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from rayworks import storage
from rayworks.data import features
from rayworks.records import Dataset, SplitName

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def row_range(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first and last (excluded) row of a worker's shard. Shards differ by at most one row."""
    return rows * rank // world_size, rows * (rank + 1) // world_size


def frames(
    dataset: Dataset, split: SplitName, columns: Sequence[str], *, rank: int = 0, world_size: int = 1
) -> Iterator[pl.DataFrame]:
    """Yield a worker's shard of a split, one row group at a time. Row groups of other shards are not read."""
    import pyarrow.parquet as pq

    part = dataset.split(split)
    first, last = row_range(part.rows, rank, world_size)
    row = 0
    for uri, _ in storage.list_files(part.uri):
        with storage.open_input(uri) as source:
            file: Any = pq.ParquetFile(source)
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                start, stop = max(first - row, 0), min(last - row, rows)
                if start < stop:
                    table = file.read_row_group(group, columns=list(dict.fromkeys(columns)))
                    yield cast(pl.DataFrame, pl.from_arrow(table)).slice(start, stop - start)
                row += rows


def encoded(
    dataset: Dataset, split: SplitName, *, rank: int = 0, world_size: int = 1
) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
    """Yield a worker's shard as inputs of a model, features and target, one row group at a time."""
    inputs = dataset.feature_set.features
    names = [*(feature.name for feature in inputs), dataset.target.name]
    for frame in frames(dataset, split, names, rank=rank, world_size=world_size):
        yield features.encode(frame, inputs), features.encode_target(frame[dataset.target.name], dataset.target)


def split_values(dataset: Dataset, rows: pl.DataFrame) -> "np.ndarray | None":
    """Return what assigned each row to its split: its time, as a number, or its key; None for a random split.

    Rows without a time come first, since they train.
    """
    if dataset.split_column is None:
        return None
    values = rows[dataset.split_column]
    if dataset.split_method == "time":
        return values.to_physical().fill_null(strategy="min").to_numpy()
    return values.cast(pl.String).fill_null("").to_numpy()


def sampled(
    dataset: Dataset, splits: Sequence[SplitName], max_rows: int
) -> "tuple[pd.DataFrame, np.ndarray, np.ndarray | None]":
    """Return about ``max_rows`` rows of the splits at most, every n-th row: features, target, and
    :func:`split_values`."""
    inputs = dataset.feature_set.features
    by = [dataset.split_column] if dataset.split_column else []
    names = list(dict.fromkeys([*(f.name for f in inputs), dataset.target.name, *by]))
    step = -(-sum(dataset.split(split).rows for split in splits) // max_rows)
    whole = pl.concat([frame.gather_every(step) for split in splits for frame in frames(dataset, split, names)])
    labels = features.encode_target(whole[dataset.target.name], dataset.target)
    return features.encode(whole, inputs), labels, split_values(dataset, whole)
