"""Decide from a sample how to process the data: columns, features and split. Reads files, but knows nothing of Ray."""

from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

import polars as pl

from rayworks.data import column_kinds, features, reading, splitting, validation
from rayworks.data.reading import Chunk
from rayworks.data.splitting import Learned, Splitter
from rayworks.data.statistics import DISTINCT_AT_MOST, edges_of
from rayworks.errors import DataError
from rayworks.params import ProcessOptions
from rayworks.records import Column, FeatureSet

SAMPLED_CHUNKS = 5
FILES_AT_A_TIME = 32  # whose column names are read: requests to an object store mostly wait
TIMES_PER_CHUNK = 10_000  # makes the shares of a split by time exact to one part in ten thousand


@dataclass(frozen=True)
class Plan:
    """Everything a task needs to process one chunk."""

    uri: str
    """The folder of the dataset."""
    target: str
    columns: tuple[Column, ...]
    """All columns of the data, the target among them."""
    feature_set: FeatureSet
    """Without categories: they are known only after the training rows have been counted."""
    splitter: Splitter
    edges: dict[str, tuple[float, ...]]
    """Histogram edges of each numeric column."""
    distinct_at_most: int = DISTINCT_AT_MOST
    """How many values of a text column are counted."""
    block_starts: tuple[datetime, ...] = ()
    """The first times of the blocks by which training rows are counted, if the split is by time."""

    @property
    def time_column(self) -> Column | None:
        """The column to split by, if the split is by time. Its values must be counted before rows can be assigned."""
        if self.splitter.by != "time":
            return None
        return next(column for column in self.columns if column.name == self.splitter.column)

    def with_times(self, counts: Iterable[pl.DataFrame], champion: Learned | None = None) -> "Plan":
        """Return the plan with the times at which validation and test begin.

        Args:
            counts: What ``count_times`` returned for each chunk.
            champion: What the champion has learned from.
        """
        all_counts = pl.concat(counts)
        splitter = splitting.with_thresholds(self.splitter, all_counts, champion)
        starts = splitting.block_starts(all_counts, cast(datetime, splitter.validation_from))
        return replace(self, splitter=splitter, block_starts=starts)

    def blocks(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, int]]:
        """Return training rows in the order of their blocks, and the first row of each block with any by its number.
        Those without a time belong to the first block."""
        times = rows[cast(str, self.splitter.column)]
        numbers = pl.Series(self.block_starts[1:]).search_sorted(times, side="right")
        numbers = numbers.set(times.is_null(), 0)
        if not numbers.is_sorted():
            rows, numbers = rows[numbers.arg_sort()], numbers.sort()
        firsts = [0, *numbers.unique_counts().cum_sum().to_list()]
        return rows, dict(zip(numbers.unique(maintain_order=True).to_list(), firsts, strict=False))


def make_plan(chunks: list[Chunk], target: str, options: ProcessOptions, folder: str) -> Plan:
    """Infer from a sample what the columns hold, which features to make, and how to split.

    Args:
        chunks: The chunks of all files.
        target: Name of the target column.
        options: What the user declared; everything else is inferred.
        folder: Where the dataset is written.

    Raises:
        DataError: There are no rows, or none of the sample is valid.
        ParameterError: The options do not fit the data.
    """
    sample = _sample(chunks, target, options)
    columns = column_kinds.infer_columns(sample, target, options)
    valid, rejected = validation.validate(sample, columns, target)
    if valid.is_empty():
        raise no_valid_rows(Counter(rejected[validation.REASON].to_list()), len(sample), chunks[0].uri)
    inputs = tuple(column for column in columns if column.name != target)
    feature_set = features.plan(valid.drop(target), inputs, options.feature_function, target)
    splitter = splitting.choose(options.split, inputs)
    edges = edges_of(with_features(valid, feature_set))
    distinct_at_most = max(DISTINCT_AT_MOST, 2 * options.max_categories)
    return Plan(folder, target, columns, feature_set, splitter, edges, distinct_at_most)


def _sample(chunks: list[Chunk], target: str, options: ProcessOptions) -> pl.DataFrame:
    """Rows of a few chunks, spread from the first to the last and over each, whatever they are sorted by; and of others
    that have the target or a declared column if these lack it."""
    if not chunks:
        raise DataError("the data have no rows", remedy="Provide data with at least one row")
    chosen = _spread(chunks)
    share = options.sample_rows // len(chosen) + 1
    read = [(chunk, batch) for chunk in chosen for batch in reading.batches(chunk, sampled=share)]
    seen = {name for _, batch in read for name in batch.rows.columns}
    if lacking := {target, *options.columns} - seen:
        others = _with_columns(lacking, chunks)
        read += [(chunk, batch) for chunk in others for batch in reading.batches(chunk, sampled=share)]
    batches = [batch for _, batch in read]
    beside_target = {name for batch in batches if target in batch.rows.columns for name in batch.rows.columns}
    for chunk, batch in read:
        check_header(chunk, batch.rows.columns, beside_target)
    frames = [batch.rows for batch in batches if len(batch.rows)]
    if not frames:
        reason = next((reason for batch in batches for _, _, reason in batch.malformed), "")
        remedy = "Fix its lines" if reason else "Provide data with at least one row"
        raise DataError("the data have no rows", where=chunks[0].uri, detail=reason, remedy=remedy)
    return column_kinds.in_one(frames)


def check_header(chunk: Chunk, names: Iterable[str], known: Collection[str]) -> None:
    """Check that a CSV file has a column that is known, if any is. Otherwise its first line may be a row.

    Raises:
        DataError: It has none, apart from those of its folders.
    """
    own = [name for name in names if name not in dict(chunk.partitions)]
    if chunk.format == "csv" and known and not set(own) & set(known):
        raise DataError(
            "the CSV file has no usable header",
            where=chunk.uri,
            detail=f"its first line has {', '.join(own[:5])}, which no other file has as columns",
            remedy="Write the names of the columns into its first line, or leave the file out",
        )


def _spread(chunks: list[Chunk]) -> list[Chunk]:
    steps = SAMPLED_CHUNKS - 1
    return chunks if len(chunks) <= steps else [chunks[i * (len(chunks) - 1) // steps] for i in range(steps + 1)]


def _with_columns(names: set[str], chunks: list[Chunk]) -> list[Chunk]:
    """For each of the columns that some file has, the first chunk of the first such file. Asks every file."""
    backwards = {chunk.uri: chunk for chunk in reversed(chunks)}.values()
    with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
        present = pool.map(reading.column_names, backwards)
        first = {name: chunk for chunk, has in zip(backwards, present, strict=True) for name in sorted(names & has)}
    return list(dict.fromkeys(first.values()))


def count_times(chunk: Chunk, column: Column) -> pl.DataFrame:
    """Count how many rows of a chunk have which time.

    Returns:
        Columns ``time`` and ``rows``, at most ``TIMES_PER_CHUNK`` rows: beyond that, neighbouring times are merged
        into the latest of them.
    """
    frames: list[pl.DataFrame] = []
    missing = validation.missing_text(column)
    for batch in reading.batches(chunk, [column.name], enums=True):
        if column.name in batch.rows.columns:
            time = validation.typed(column.name, batch.rows.schema[column.name], "timestamp", missing).alias("time")
            frames.append(
                batch.rows.select(time).drop_nulls().group_by("time").agg(pl.len().cast(pl.Int64).alias("rows"))
            )
    # 32 bits, as of pl.len(), are too few for the sum over all chunks.
    empty = pl.DataFrame(schema={"time": pl.Datetime("us"), "rows": pl.Int64})
    counts = pl.concat([empty, *frames]).group_by("time").agg(pl.col("rows").sum()).sort("time")
    bucket = pl.int_range(pl.len()) * TIMES_PER_CHUNK // max(len(counts), TIMES_PER_CHUNK)
    merged = counts.group_by(bucket.alias("bucket")).agg(pl.col("time").max(), pl.col("rows").sum())
    return merged.select("time", "rows")


def with_features(typed: pl.DataFrame, feature_set: FeatureSet) -> pl.DataFrame:
    """Return typed rows with those features added that are not columns already."""
    return typed.hstack(
        features.transform(typed.select(c.name for c in feature_set.columns), feature_set, typed.columns).get_columns()
    )


def no_valid_rows(reasons: Counter[str], rows: int, where: str) -> DataError:
    """Return the error for data of which every row was rejected, with the most frequent reasons."""
    return DataError(
        f"none of the {rows:,} rows can be used",
        where=where,
        detail="; ".join(f"{count:,} rows: {reason}" for reason, count in reasons.most_common(3)),
        remedy="Fix the data or the declarations",
    )
