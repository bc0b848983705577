"""What every format is read into: batches of rows, with the lines that are no rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import polars as pl

from rayworks.errors import DataError, first_line

BATCH_ROWS = 100_000  # rows in memory at a time, and in each row group that is written
SAMPLED_ROWS, FEW_VALUES = 2_000, 500  # by which columns of text are chosen that are looked at by their values


class Doubt(NamedTuple):
    """What may have been understood wrongly in some columns, in a clause, and what to do then, in a sentence."""

    what: str
    remedy: str


@dataclass
class Batch:
    """Consecutive records of a file: rows, and lines that are no rows."""

    rows: pl.DataFrame
    first_row: int
    """Number of the first record in its file, from 1."""
    records: int
    """How many records the file has here, counted without the parser of the rows."""
    malformed: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    """Row number, text and reason of the lines that could not be parsed as rows."""
    doubts: dict[str, Doubt] = field(default_factory=dict[str, Doubt])
    """By column, of the file up to here: those of an earlier batch may have been resolved."""

    def thinned(self, rows: int) -> "Batch":
        """Return about ``rows`` of its rows to twice as many, evenly. Their numbers mean nothing."""
        step = max(1, self.records // max(1, rows))
        kept = -(-(self.records - len(self.malformed)) // step) + len(self.malformed)
        return replace(self, rows=self.rows.gather_every(step), records=kept)

    @property
    def numbers(self) -> pl.Series:
        """The number of each row in its file."""
        numbers = pl.int_range(self.first_row, self.first_row + len(self.rows) + len(self.malformed), eager=True)
        taken = [number for number, _, _ in self.malformed]
        return numbers.filter(~numbers.is_in(taken)) if taken else numbers


def enumerated(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with text of few distinct values as ``pl.Enum``, so that each value is looked at once."""
    if len(rows) < SAMPLED_ROWS:
        return rows
    text = [rows[name] for name, dtype in rows.schema.items() if dtype == pl.String]
    few = [values for values in text if values.head(SAMPLED_ROWS).n_unique() <= FEW_VALUES]
    return rows.with_columns(values.cast(pl.Enum(values.unique(maintain_order=True).drop_nulls())) for values in few)


def check_names(names: Sequence[str], uri: str) -> None:
    """Check the names of a file's columns.

    Raises:
        DataError: Two are the same, or one of them is a pattern of names to Polars, in which no value has it then.
    """
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError("two columns have the same name", where=uri, detail=", ".join(repeated), remedy="Rename one")
    if patterns := [name for name in names if name == "*" or (name.startswith("^") and name.endswith("$"))]:
        what = "a column has a name that means a pattern of names"
        raise DataError(what, where=uri, detail=", ".join(patterns), remedy="Rename it: * and ^…$ cannot be names")


def unreadable(uri: str, kind: str, error: Exception) -> DataError:
    """Return the error for a file that a library cannot read as ``kind``."""
    remedy = "Check the file, or set process.format"
    return DataError(f"the file is not readable as {kind}", where=uri, detail=first_line(error), remedy=remedy)
