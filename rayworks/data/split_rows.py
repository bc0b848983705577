# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# pyarrow has no types.
"""Read the rows of a split, or one worker's shard of them, directly from storage.

Contiguous shards need no shuffle and do not harm trees, whose histograms are summed over all workers. Reading Parquet
directly saves the start and the copies of a Ray Data ingest, for data that a worker holds in memory anyway.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import polars as pl

from rayworks import storage
from rayworks.data import features
from rayworks.records import Dataset, SplitName

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


SAMPLED_TIMES = 1_000_000  # 8 MB
SPREAD = 20


@dataclass(frozen=True)
class Origin:
    """An earlier time that divides the training rows as the dataset is divided: those before it train, as many as the
    dataset validates are from then on. ``train`` is about the number of the former."""

    time: int
    train: int


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
                    yield _row_group(file, group, columns).slice(start, stop - start)
                row += rows


def _row_group(file: Any, group: int, columns: Sequence[str]) -> pl.DataFrame:
    return cast(pl.DataFrame, pl.from_arrow(file.read_row_group(group, columns=list(dict.fromkeys(columns)))))


def first_rows(dataset: Dataset, split: SplitName, columns: Sequence[str], rows: int) -> pl.DataFrame:
    """Return the first ``rows`` rows of a split; all of them if it has fewer."""
    read: list[pl.DataFrame] = []
    for frame in frames(dataset, split, columns):
        read.append(frame.head(rows - sum(map(len, read))))
        if sum(map(len, read)) == rows:
            break
    return pl.concat(read)


def spread(dataset: Dataset, split: SplitName, columns: Sequence[str], max_rows: int) -> pl.DataFrame:
    """Return about ``max_rows`` rows of a split at most, from ``SPREAD`` row groups that lie evenly in it: of however
    many rows a split has, few are read."""
    import pyarrow.parquet as pq

    files = [uri for uri, _ in storage.list_files(dataset.split(split).uri)]
    groups: list[tuple[str, int, int]] = []
    for uri in files[:: -(-len(files) // SPREAD)]:
        with storage.open_input(uri) as source:
            metadata = pq.ParquetFile(source).metadata
        groups += [(uri, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
    chosen = groups[:: -(-len(groups) // SPREAD)]
    step = -(-sum(rows for _, _, rows in chosen) // max_rows)
    read: list[pl.DataFrame] = []
    for uri, group, _ in chosen:
        with storage.open_input(uri) as source:
            read.append(_row_group(pq.ParquetFile(source), group, columns).gather_every(step))
    return pl.concat(read)


def encoded(
    dataset: Dataset, split: SplitName, *, rank: int = 0, world_size: int = 1
) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
    """Yield a worker's shard as inputs of a model, features and target, one row group at a time."""
    for frame in frames(dataset, split, _columns(dataset), rank=rank, world_size=world_size):
        yield _encode(dataset, frame)


def _columns(dataset: Dataset) -> list[str]:
    """Return the columns of the features and the target."""
    return [*(feature.name for feature in dataset.feature_set.features), dataset.target.name]


def _encode(dataset: Dataset, rows: pl.DataFrame) -> "tuple[pd.DataFrame, np.ndarray]":
    """Return rows as inputs of a model, features and target."""
    labels = features.encode_target(rows[dataset.target.name], dataset.target)
    return features.encode(rows, dataset.feature_set.features), labels


def earlier_origin(dataset: Dataset) -> Origin | None:
    """Return an earlier origin of a dataset that is split by time; None where too few rows would be left to train, or
    not all classes."""
    rows, validation = dataset.split("train").rows, dataset.split("validation").rows
    if dataset.split_method != "time" or rows < 2 * validation:
        return None
    step, target = -(-rows // SAMPLED_TIMES), dataset.target
    names = [cast(str, dataset.split_column), target.name]
    sampled = [frame.gather_every(step) for frame in frames(dataset, "train", names)]
    times = pl.concat([_times(dataset, frame) for frame in sampled])
    time = cast(int, times.sort()[len(times) * (rows - validation) // rows])
    is_before, labels = times < time, pl.concat([frame[target.name] for frame in sampled])
    train = rows * int(is_before.sum()) // len(times)
    has_all_classes = not target.classes or labels.filter(is_before).n_unique() == labels.n_unique()
    return Origin(time, train) if train >= validation and has_all_classes else None


def encoded_at(
    dataset: Dataset, origin: Origin, part: Literal["train", "validation"], *, rank: int = 0, world_size: int = 1
) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
    """Yield a worker's shard of the training rows before ``origin``, or since then, as :func:`encoded` does.

    A shard has its share of each row group: where rows are in the order of time, contiguous shards would be empty.
    """
    for frame in frames(dataset, "train", [*_columns(dataset), cast(str, dataset.split_column)]):
        is_before = _times(dataset, frame) < origin.time
        rows = frame.filter(is_before if part == "train" else ~is_before)
        first, last = row_range(len(rows), rank, world_size)
        if shard := last - first:
            yield _encode(dataset, rows.slice(first, shard))


def _times(dataset: Dataset, rows: pl.DataFrame) -> pl.Series:
    """Return the time of each row as a number. Rows without a time come first, since they train."""
    return rows[cast(str, dataset.split_column)].to_physical().cast(pl.Int64).fill_null(-(2**63))


def split_values(dataset: Dataset, rows: pl.DataFrame) -> "np.ndarray | None":
    """Return what assigned each row to its split: its time, as a number, or its key; None for a random split."""
    if dataset.split_column is None:
        return None
    if dataset.split_method == "time":
        return _times(dataset, rows).to_numpy()
    return rows[dataset.split_column].cast(pl.String).fill_null("").to_numpy()


def sampled(
    dataset: Dataset, splits: Sequence[SplitName], max_rows: int
) -> "tuple[pd.DataFrame, np.ndarray, np.ndarray | None]":
    """Return about ``max_rows`` rows of the splits at most, every n-th row: features, target, and
    :func:`split_values`."""
    names = [*_columns(dataset), *([dataset.split_column] if dataset.split_column else [])]
    step = -(-sum(dataset.split(split).rows for split in splits) // max_rows)
    whole = pl.concat([frame.gather_every(step) for split in splits for frame in frames(dataset, split, names)])
    return *_encode(dataset, whole), split_values(dataset, whole)
