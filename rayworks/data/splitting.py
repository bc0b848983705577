"""Assign rows to training, validation and test. The same row always gets the same split. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import polars as pl

from rayworks.errors import DataError, ParameterError
from rayworks.params import SplitOptions
from rayworks.records import SPLITS, Column, Dataset, SplitMethod, SplitName

if TYPE_CHECKING:
    import numpy as np

BLOCKS = 20
BLOCK_ROWS = 500  # fewer say more about chance than about time


@dataclass(frozen=True)
class Learned:
    """What the champion has learned from, as far as the choice of the test rows depends on it.

    By time, these are the rows before ``until``; ``split_by`` describes its split, and is empty if it is not known.
    """

    split_by: str
    column: str | None
    until: datetime | None
    minimum_rows: int
    """How many test rows a promotion needs."""


def learned(champion: Dataset | None, minimum_rows: int) -> Learned:
    """Return what a champion has learned from.

    Args:
        champion: Its dataset; None if that is no longer stored.
        minimum_rows: How many test rows a promotion needs.
    """
    if champion is None:
        return Learned("", None, None, minimum_rows)
    return Learned(champion.split_by, champion.split_column, champion.test_from, minimum_rows)


@dataclass(frozen=True)
class Splitter:
    """How rows are assigned. By time, rows before ``validation_from`` train, and rows from ``test_from`` on test."""

    by: SplitMethod
    column: str | None
    validation: float
    test: float
    seed: int
    validation_from: datetime | None = None
    test_from: datetime | None = None
    """Before the thresholds are known: what the options say."""

    def describe(self) -> str:
        """Return a description for people."""
        each = {"train": 1 - self.validation - self.test, "validation": self.validation, "test": self.test}
        shares = ", ".join(f"{100 * share:g}% {name}" for name, share in each.items())
        match self.by:
            case "time":
                return (
                    f"by time ({self.column}): train before {self.validation_from:%Y-%m-%d %H:%M}, "
                    f"test from {self.test_from:%Y-%m-%d %H:%M}"
                )
            case "hash":
                return f"by a hash of {self.column} (seed {self.seed}): {shares}"
            case _:
                return f"at random (seed {self.seed}): {shares}"

    def assign(self, rows: pl.DataFrame, file: str, numbers: pl.Series) -> pl.Series:
        """Return the split of each row.

        Args:
            rows: Typed rows.
            file: Path of their file in the folder of the data. A random split depends on it and on the row number, so
                new files do not move the rows of existing ones.
            numbers: Number of each row in that file.
        """
        if self.by == "time":
            time = rows[cast(str, self.column)]  # rows without a time train, where they cannot leak into the test
            part = (time >= self.validation_from).cast(pl.Int8).fill_null(0) + (time >= self.test_from).cast(
                pl.Int8
            ).fill_null(0)
        else:
            share = self._hash(rows, file, numbers) / float(1 << 64)
            part = pl.Series((share >= 1 - self.test - self.validation).astype("int8") + (share >= 1 - self.test))
        return part.replace_strict([0, 1, 2], list(SPLITS), return_dtype=pl.String)

    def _hash(self, rows: pl.DataFrame, file: str, numbers: pl.Series) -> "np.ndarray":
        import numpy as np
        from pandas.util import hash_array

        if self.by == "hash":
            keys = rows[cast(str, self.column)].cast(pl.String).fill_null("").to_numpy()
            return _mixed(hash_array(keys.astype(object), categorize=True) ^ np.uint64(self.seed))
        start = int.from_bytes(hashlib.sha256(f"{self.seed}/{file}".encode()).digest()[:8], "big")
        with np.errstate(over="ignore"):
            return _mixed(numbers.to_numpy().astype("uint64") + np.uint64(start))


def _mixed(numbers: "np.ndarray") -> "np.ndarray":
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): neighbouring numbers become
    unrelated. The same on every machine."""
    import numpy as np

    with np.errstate(over="ignore"):
        z = numbers + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def choose(options: SplitOptions, columns: Sequence[Column]) -> Splitter:
    """Choose how to split, without thresholds yet.

    Raises:
        ParameterError: The column is not in use, or is not a timestamp.
    """
    times = [column.name for column in columns if column.kind == "timestamp"]
    by, column = options.by, options.column
    if by == "auto":
        by = "hash" if column and column not in times else "time" if column or len(times) == 1 else "random"
    if by == "time":
        column = column or (times[0] if len(times) == 1 else None)
        if column not in times:
            raise ParameterError(
                "a split by time needs a timestamp column",
                where=column or "split.column",
                detail=f"the timestamp columns are {', '.join(times) or 'none'}",
                remedy="Set split.column, or split.by to random",
            )
    if by == "hash" and column not in {c.name for c in columns if c.kind != "ignored"}:
        raise ParameterError(
            "the key of the split is not among the columns in use",
            where=str(column),
            remedy="Name another, or declare its kind: ignored columns cannot be the key",
        )
    test_from = options.test_from
    if test_from and by != "time":
        raise ParameterError(
            "rows are not split by time", where="split.test_from", remedy="Set split.column to a timestamp column"
        )
    if test_from and test_from.tzinfo:
        test_from = test_from.astimezone(UTC).replace(tzinfo=None)
    column = None if by == "random" else column
    return Splitter(by, column, options.validation, options.test, options.seed, test_from=test_from)


def with_thresholds(splitter: Splitter, counts: pl.DataFrame, champion: Learned | None = None) -> Splitter:
    """Return the splitter with the two times that come closest to the shares. Rows of one time stay together.

    The test rows begin later than their share says where the champion has learned from the first of them.

    Args:
        splitter: A split by time.
        counts: Columns ``time`` and ``rows``: the number of rows at each time.
        champion: What the champion has learned from.

    Raises:
        DataError: There are fewer than three distinct times.
        ParameterError: No row would be left to train, to validate or to test with.
    """
    ordered = counts.drop_nulls("time").group_by("time").agg(pl.col("rows").sum()).sort("time")
    if len(ordered) < 3:
        raise DataError(
            "there are fewer than three distinct times to split by",
            where=str(splitter.column),
            remedy="Set split.by to random",
        )
    before = ordered["rows"].cum_sum() / ordered["rows"].sum()

    def position(share: float) -> int:
        return int((before < share - 1e-12).sum()) + 1

    first = min(max(position(1 - splitter.validation - splitter.test), 1), len(ordered) - 2)
    last = min(max(position(1 - splitter.test), first + 1), len(ordered) - 1)
    test_from = splitter.test_from or _unseen_from(ordered, ordered["time"][last], splitter, champion)
    if test_from is None:
        return replace(splitter, validation_from=ordered["time"][first], test_from=ordered["time"][last])
    last = int((ordered["time"] < test_from).sum())
    if not 2 <= last < len(ordered):
        raise ParameterError(
            "no row would be left to train, to validate or to test with",
            where=f"split.test_from {test_from}",
            detail=f"the rows are from {ordered['time'][0]} to {ordered['time'][-1]}",
            remedy="Choose a time between them",
        )
    kept = float(before[last - 1])
    first = min(max(position(kept * (1 - splitter.validation / (1 - splitter.test))), 1), last - 1)
    return replace(
        splitter,
        validation=kept - float(before[first - 1]),
        test=1 - kept,
        validation_from=ordered["time"][first],
        test_from=test_from,
    )


def _unseen_from(
    ordered: pl.DataFrame, by_share: datetime, splitter: Splitter, champion: Learned | None
) -> datetime | None:
    """Return from when on the champion has learned nothing, if the test rows are to begin then instead of ``by_share``:
    that is later, and enough rows are left."""
    if champion is None or champion.until is None or champion.column != splitter.column or champion.until <= by_share:
        return None
    unseen = ordered.filter(pl.col("time") >= champion.until)["rows"].sum()
    return champion.until if unseen >= champion.minimum_rows else None


def hold_out(splitter: Splitter, champion: Learned | None) -> str:
    """Return whether the champion has learned from the test rows, as a sentence; empty without a champion."""
    if champion is None:
        return ""
    neither = "Neither the candidate nor the champion has learned from the test rows"
    if splitter.by == "time" and champion.until and champion.column == splitter.column:
        until, test_from = champion.until, splitter.test_from
        if test_from and until <= test_from:
            return f"{neither}: the champion has learned from rows before {until:%Y-%m-%d %H:%M}."
        return (
            f"The champion has learned from the test rows before {until:%Y-%m-%d %H:%M}, which favours it: "
            f"fewer than {champion.minimum_rows:,} rows are newer, or the options say from when on rows are held out."
        )
    if splitter.by != "time" and champion.split_by == splitter.describe():
        return f"{neither}: data that are added move no row to another split."
    other = f"its rows were split {champion.split_by}" if champion.split_by else "its dataset is no longer stored"
    return f"The champion may have learned from some of the test rows: {other}."


def is_unseen(dataset: Dataset, learned: Dataset) -> bool:
    """Return whether a model that learned from one dataset has certainly learned from no test row of another.

    Args:
        dataset: With the test rows.
        learned: What the model learned from.
    """
    if dataset.split_method == "time":
        until, test_from = learned.test_from, dataset.test_from
        return bool(until and test_from and learned.split_column == dataset.split_column and until <= test_from)
    # A random split depends on the place of a row in its file, so on the files as well.
    same_rows = dataset.split_method == "hash" or learned.sources == dataset.sources
    return learned.split_by == dataset.split_by and same_rows


def block_starts(counts: pl.DataFrame, before: datetime) -> tuple[datetime, ...]:
    """Return the first times of about ``BLOCKS`` blocks of as many rows each; none where two would be too small.

    Args:
        counts: Columns ``time`` and ``rows``: the number of rows at each time.
        before: The time before which rows train.
    """
    ordered = counts.filter(pl.col("time") < before).group_by("time").agg(pl.col("rows").sum()).sort("time")
    rows = int(ordered["rows"].sum())
    blocks = min(BLOCKS, rows // BLOCK_ROWS)
    if blocks < 2:
        return ()
    block = (ordered["rows"].cum_sum() - ordered["rows"]) * blocks // rows
    starts = ordered["time"].filter(block != block.shift(1, fill_value=-1)).to_list()
    return tuple(starts) if len(starts) > 1 else ()


def warnings(splitter: Splitter, rows: Mapping[SplitName, int]) -> tuple[str, ...]:
    """Return a sentence if the rows of the splits are far from the shares, because rows with one time or key stay
    together. The shares of a random split differ by chance only."""
    wanted = {
        "train": 1 - splitter.validation - splitter.test,
        "validation": splitter.validation,
        "test": splitter.test,
    }
    total = sum(rows.values())
    far = [name for name in SPLITS if not 0.5 < rows[name] / total / wanted[name] < 2]
    if splitter.by == "random" or not far:
        return ()
    shares = ", ".join(f"{rows[name] / total:.0%} {name} instead of {wanted[name]:.0%}" for name in SPLITS)
    return (
        f"the split by {splitter.column} is uneven: {shares}. Rows with the same {splitter.column} stay together. "
        "Choose another column, or set process.split.by to random",
    )
