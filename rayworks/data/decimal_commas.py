"""Numbers of a text file separated by semicolons, in which decimals have commas: 1.234,5 becomes 1234.5.

A point there separates thousands, or it is a decimal point after all. The first rows of a file, some megabytes of them,
decide that for all of it: so every reader decides the same, however far it reads. What the file leaves open, or shows
to be wrong later, is a doubt.
"""

from collections.abc import Collection

import polars as pl

from rayworks.data.batches import Doubt

COMMA = r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*$"
POINTS = r"^\s*[+-]?[\d.]*\.[\d.]*([eE][+-]?\d+)?\s*$"  # also 1.5, 0.125 and 10.0.0.1, which have no thousands
GROUPS = r"^\s*[+-]?[1-9]\d{0,2}(\.\d{3})+\s*$"
SEVERAL_GROUPS = r"^\s*[+-]?[1-9]\d{0,2}(\.\d{3}){2,}\s*$"
THOUSANDS = Doubt(
    "a point as in 1.234 counts as a separator of thousands, because the file has decimal commas",
    "If it is a decimal point, write a comma",
)
DECIMALS = Doubt(
    "a point as in 1.234 counts as a decimal point", "If it separates thousands, write the numbers without it"
)


class Numbers:
    """How the numbers of one file are written."""

    def __init__(self) -> None:
        self._with_commas = set[str]()
        self._with_one_group, self._with_several_groups = set[str](), set[str]()
        self._with_other_points = set[str]()
        self._thousands: set[str] | None = None

    def as_points(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the next rows of the file, all of them text, with decimal points and without separators."""
        if rows.is_empty():
            return rows
        marked = _sums(_matching(rows, rows.columns, f"{COMMA}|{POINTS}"))
        commas = _matching(rows, marked, COMMA)
        with_commas = _sums(commas)
        points = {name: count - with_commas.get(name, 0) for name, count in marked.items()}
        groups = _matching(rows, [name for name, count in points.items() if count], GROUPS)
        with_groups = _sums(groups)
        self._with_commas |= with_commas.keys()
        with_several = _sums(_matching(rows, with_groups, SEVERAL_GROUPS))
        self._with_one_group |= {name for name, count in with_groups.items() if count > with_several.get(name, 0)}
        self._with_several_groups |= with_several.keys()
        self._with_other_points |= {name for name, count in points.items() if count > with_groups.get(name, 0)}
        if self._thousands is None:
            self._thousands = {name for name in rows.columns if self._separates_thousands(name)}
        grouped = with_groups.keys() & self._thousands
        changed = {name: commas[name] | groups[name] if name in grouped else commas[name] for name in marked}
        return rows.with_columns(_as_point(name, where) for name, where in changed.items() if where.any())

    def _separates_thousands(self, column: str) -> bool:
        if column in self._with_commas:
            return True
        return column not in self._with_other_points and bool(self._with_commas or column in self._with_several_groups)

    @property
    def doubts(self) -> dict[str, Doubt]:
        """By column, what may have been understood wrongly in the rows until now."""
        return {
            column: THOUSANDS if column in (self._thousands or ()) else DECIMALS
            for column in sorted(self._with_one_group)
            if not self._is_certain(column)
        }

    def _is_certain(self, column: str) -> bool:
        """Whether values of the column itself show what its points are, and it was read like this from the start."""
        separates = column in self._with_commas | self._with_several_groups
        decimal = column in self._with_other_points
        if column in (self._thousands or ()):
            return separates and not decimal
        return decimal and not separates and not self._with_commas


def _matching(rows: pl.DataFrame, columns: Collection[str], pattern: str) -> pl.DataFrame:
    """Whether each value of the columns matches the pattern."""
    return rows.select(pl.col(*columns).str.contains(pattern)) if columns else pl.DataFrame()


def _sums(matching: pl.DataFrame) -> dict[str, int]:
    """How many values match, for the columns with any."""
    return {column.name: count for column in matching if (count := int(column.sum()))}


def _as_point(name: str, where: pl.Series) -> pl.Expr:
    text = pl.col(name)
    point = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    return pl.when(where).then(point).otherwise(text)
