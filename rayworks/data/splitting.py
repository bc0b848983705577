"""Assign rows to training, validation and test. The same row always gets the same split. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

import polars as pl

from rayworks.errors import DataError, ParameterError
from rayworks.params import SplitOptions
from rayworks.records import SPLITS, Column, SplitMethod, SplitName

if TYPE_CHECKING:
    import numpy as np

BLOCKS = 20
BLOCK_ROWS = 500  # fewer say more about chance than about time


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

    def describe(self) -> str:
        """Return a description for people."""
        shares = f"{1 - self.validation - self.test:.0%} train, {self.validation:.0%} validation, {self.test:.0%} test"
        match self.by:
            case "time":
                return (
                    f"by time ({self.column}): train before {self.validation_from:%Y-%m-%d %H:%M}, "
                    f"test from {self.test_from:%Y-%m-%d %H:%M}"
                )
            case "hash":
                return f"by a hash of {self.column}: {shares}"
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
    return Splitter(by, None if by == "random" else column, options.validation, options.test, options.seed)


def with_thresholds(splitter: Splitter, counts: pl.DataFrame) -> Splitter:
    """Return the splitter with the two times that come closest to the shares. Rows of one time stay together.

    Args:
        splitter: A split by time.
        counts: Columns ``time`` and ``rows``: the number of rows at each time.

    Raises:
        DataError: There are fewer than three distinct times.
    """
    ordered = counts.drop_nulls("time").group_by("time").agg(pl.col("rows").sum()).sort("time")
    if len(ordered) < 3:
        raise DataError(
            "there are fewer than three distinct times to split by",
            where=str(splitter.column),
            remedy="Set split.by to random",
        )
    before = ordered["rows"].cum_sum() / ordered["rows"].sum()
    first = int((before < 1 - splitter.validation - splitter.test - 1e-12).sum()) + 1
    last = int((before < 1 - splitter.test - 1e-12).sum()) + 1
    first = min(max(first, 1), len(ordered) - 2)
    last = min(max(last, first + 1), len(ordered) - 1)
    return Splitter(
        splitter.by,
        splitter.column,
        splitter.validation,
        splitter.test,
        splitter.seed,
        validation_from=ordered["time"][first],
        test_from=ordered["time"][last],
    )


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
