"""The manifest of a dataset: assembled from what the tasks counted, stored in the dataset's folder, and loaded."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import polars as pl

from rayworks import reuse, storage
from rayworks.data import column_kinds, planning, splitting
from rayworks.data.batches import Doubt
from rayworks.data.column_kinds import CLASSES_CEILING
from rayworks.data.planning import Plan
from rayworks.data.splitting import Learned
from rayworks.data.statistics import Statistics
from rayworks.errors import DataError
from rayworks.params import ProcessOptions
from rayworks.records import (
    SPLITS,
    ColumnKind,
    Dataset,
    DatasetRef,
    Feature,
    Label,
    SourceFile,
    Split,
    SplitName,
    Target,
    TimeBlocks,
)

FILE, BLOCKS_FILE = "dataset.json", "blocks.json"
COLUMNS_SHOWN = 5
UNPLANNED = Doubt(
    "columns that no row of the sample has are not used",
    "To use one, declare it in process.columns; if it begins late in a file of JSON lines, increase "
    "process.sample_rows",
)


def load(dataset: DatasetRef | str) -> Dataset:
    """Return the manifest of a dataset, by reference or by the URI of its folder.

    Raises:
        StorageError: There is none, or another version wrote it.
    """
    uri = dataset if isinstance(dataset, str) else dataset.uri
    return storage.read_record(storage.join(uri, FILE), Dataset)


def load_blocks(dataset: Dataset) -> TimeBlocks | None:
    """Return the statistics of the training rows by time; None where they are not split by time, or too few."""
    return reuse.find_record(storage.join(dataset.uri, BLOCKS_FILE), TimeBlocks)


@dataclass
class RowCounts:
    """What was counted in one chunk, or in several that were merged."""

    rows_in: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Rejected rows by reason, without the single value."""
    splits: dict[SplitName, Statistics] = field(default_factory=dict[SplitName, Statistics])
    classes: dict[SplitName, Counter[Any]] = field(default_factory=dict[SplitName, Counter[Any]])
    """Rows by the target's value. When there are too many values for classes, the rest is not counted."""
    kept_of_file: Counter[str] = field(default_factory=Counter[str])
    reason_of_file: dict[str, str] = field(default_factory=dict[str, str])
    """A frequent reason for which rows of a file are rejected."""
    blocks: dict[int, Statistics] = field(default_factory=dict[int, Statistics])
    """Of training rows, by the number of the block of time."""
    doubts: dict[Doubt, dict[str, str]] = field(default_factory=dict[Doubt, dict[str, str]])
    """Columns that it is about, each with the first file."""

    def add(self, split: SplitName, rows: pl.DataFrame, plan: Plan) -> None:
        """Count some rows of a split, those to train with by block of time as well."""
        counted = self.splits.setdefault(split, Statistics(plan.edges, plan.distinct_at_most))
        if split == "train" and plan.block_starts:
            ordered, firsts = plan.blocks(rows)
            for number, block in zip(firsts, counted.add(ordered, [*firsts.values()]), strict=True):
                self._add_block(number, block)
        else:
            counted.add(rows)
        self.count_classes(split, rows[plan.target])

    def count_file(self, file: str, kept: int) -> None:
        """Count the rows of a file that were kept; all that was counted until now must be of this file."""
        self.kept_of_file[file] += kept
        for reason, _ in self.reasons.most_common(1):
            self.reason_of_file[file] = reason

    def note_columns(self, file: str, names: Iterable[str], plan: Plan) -> None:
        """Note which columns of a file the plan does not have."""
        planned = {column.name for column in plan.columns}
        for name in names:
            if name not in planned:
                self._add_doubt(UNPLANNED, name, file)

    def note_doubts(self, file: str, doubts: Mapping[str, Doubt], plan: Plan) -> None:
        """Note doubts about a file, by column, as far as the columns are in use."""
        used = {column.name for column in plan.columns if column.kind != "ignored"}
        for name in doubts.keys() & used:
            self._add_doubt(doubts[name], name, file)

    def _add_doubt(self, doubt: Doubt, column: str, file: str) -> None:
        files = self.doubts.setdefault(doubt, {})
        files[column] = min(file, files.get(column, file))

    @property
    def unusable(self) -> dict[str, str]:
        """Files without a row that was kept, and why."""
        files = sorted(file for file, kept in self.kept_of_file.items() if not kept)
        return {file: self.reason_of_file.get(file, "it has no rows") for file in files}

    def count_classes(self, split: SplitName, values: pl.Series) -> None:
        """Count the target's values of some rows of a split."""
        counted = self.classes.setdefault(split, Counter())
        if len(counted) <= CLASSES_CEILING:
            rows = values.alias("value").value_counts(name="rows").head(CLASSES_CEILING + 1)
            counted.update(dict(rows.iter_rows()))

    def _add_block(self, number: int, counted: Statistics) -> None:
        self.blocks.setdefault(number, Statistics(counted.edges, counted.distinct_at_most)).merge(counted)

    def check(self, file: str, records: int) -> None:
        """Check that each record of a file was either kept or rejected.

        Args:
            file: The file that was read.
            records: How many records it has, counted without parsing them.

        Raises:
            DataError: Some are in no count, or in two.
        """
        kept, rejected = sum(split.rows for split in self.splits.values()), self.reasons.total()
        check_sum(file, records, self.rows_in, kept, rejected)

    def merge(self, other: "RowCounts") -> None:
        """Add the counts of another chunk."""
        self.rows_in += other.rows_in
        self.reasons.update(other.reasons)
        self.kept_of_file.update(other.kept_of_file)
        self.reason_of_file.update(other.reason_of_file)
        for doubt, files in other.doubts.items():
            for column, file in files.items():
                self._add_doubt(doubt, column, file)
        for name, counted in other.splits.items():
            self.splits.setdefault(name, Statistics(counted.edges, counted.distinct_at_most)).merge(counted)
        for number, counted in other.blocks.items():
            self._add_block(number, counted)
        for name, classes in other.classes.items():
            counted = self.classes.setdefault(name, Counter())
            if len(counted) <= CLASSES_CEILING:
                counted.update(classes)


def check_sum(file: str, records: int, read: int, kept: int, rejected: int) -> None:
    """Check that each record of a file was read, and was either kept or rejected.

    Raises:
        DataError: Some are in no count, or in two.
    """
    if not records == read == kept + rejected:
        raise DataError(
            "the rows of a file do not add up",
            where=file,
            detail=f"{records:,} records in the file, {read:,} read, {kept:,} kept, {rejected:,} rejected",
            remedy="Write the file as Parquet, and report its first lines as a fault of rayworks",
        )


def assemble(
    plan: Plan,
    counts: RowCounts,
    options: ProcessOptions,
    files: list[SourceFile],
    name: str,
    champion: Learned | None = None,
) -> Dataset:
    """Assemble the manifest from the counts of all chunks.

    Raises:
        DataError: Nothing can be learned from these data: no valid rows, an empty split, a target with one value.
    """
    rows: dict[SplitName, int] = {part: statistics.rows for part, statistics in counts.splits.items()}
    if not sum(rows.values()):
        raise planning.no_valid_rows(counts.reasons, counts.rows_in, files[0].uri)
    if empty := [part for part in SPLITS if not rows.get(part)]:
        raise DataError(
            f"no row is left to {' and '.join(empty)} with",
            where=files[0].uri,
            detail=f"{sum(rows.values()):,} usable rows, split {plan.splitter.describe()}",
            remedy="Provide more rows, or choose other shares or another way to split",
        )
    train = counts.splits["train"]
    features = tuple(_with_categories(feature, train, options.max_categories) for feature in plan.feature_set.features)
    ignored = tuple(c for c in plan.columns if c.kind == "ignored" and c.name != plan.target)
    target = _target(plan, counts, options)
    classes = {str(label): counts.classes["train"][label] for label in target.classes}
    return Dataset(
        name=name,
        fingerprint=plan.uri.rpartition("-")[2],
        uri=plan.uri,
        target=target,
        splits=_splits(plan, counts, features),
        sources=tuple(files),
        feature_set=plan.feature_set.model_copy(update={"features": features, "ignored": ignored}),
        split_by=plan.splitter.describe(),
        split_method=plan.splitter.by,
        split_column=plan.splitter.column,
        test_from=plan.splitter.test_from,
        hold_out=splitting.hold_out(plan.splitter, champion),
        rows_in=counts.rows_in,
        rows_kept=sum(rows.values()),
        rows_rejected=counts.reasons.total(),
        class_counts={label: rows for label, rows in classes.items() if rows},
        reasons=dict(counts.reasons.most_common()),
        unusable=counts.unusable,
        warnings=(
            *(f"no row of {file} can be used: {reason}" for file, reason in islice(counts.unusable.items(), 3)),
            *(f"column {column.name}: {column.warning}" for column in plan.columns if column.warning),
            *(_in_words(doubt, files) for doubt, files in sorted(counts.doubts.items())),
            *splitting.warnings(plan.splitter, rows),
        ),
        rejected_uri=storage.join(plan.uri, "rejected"),
    )


def _in_words(doubt: Doubt, files: dict[str, str]) -> str:
    shown = [f"{column} (in {file})" for column, file in islice(sorted(files.items()), COLUMNS_SHOWN)]
    more = f" and {len(files) - len(shown):,} more" if len(files) > len(shown) else ""
    return f"{doubt.what}: {', '.join(shown)}{more}. {doubt.remedy}"


def _splits(plan: Plan, counts: RowCounts, features: tuple[Feature, ...]) -> tuple[Split, ...]:
    """Each split with the statistics of the columns in use and of the features."""
    kinds: dict[str, ColumnKind] = {**{f.name: f.kind for f in features}, **{c.name: c.kind for c in plan.columns}}
    return tuple(
        Split(
            name=part,
            uri=storage.join(plan.uri, part),
            rows=counts.splits[part].rows,
            statistics=tuple(counts.splits[part].of_column(n, k) for n, k in kinds.items() if k != "ignored"),
        )
        for part in SPLITS
    )


def time_blocks(plan: Plan, counts: RowCounts, dataset: Dataset) -> TimeBlocks | None:
    """Return the statistics of the training rows by block of time; None if they were not counted so."""
    if not plan.block_starts:
        return None
    columns = dataset.split("train").statistics
    blocks = [
        tuple(of_block.of_column(c.name, c.kind, c.values).model_copy(update={"edges": ()}) for c in columns)
        for _, of_block in sorted(counts.blocks.items())
    ]
    starts = tuple(plan.block_starts[number] for number in sorted(counts.blocks))
    return TimeBlocks(starts=starts, blocks=tuple(blocks))


def _with_categories(feature: Feature, train: Statistics, max_categories: int) -> Feature:
    """The feature with its most frequent values in the training rows, if it is categorical."""
    if feature.kind == "numeric":
        return feature
    counts = train.values.get(feature.name, Counter[str]())
    most_frequent = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:max_categories]
    return feature.model_copy(update={"categories": tuple(value for value, _ in most_frequent)})


def _target(plan: Plan, counts: RowCounts, options: ProcessOptions) -> Target:
    """The target, with its classes or as an amount, as all rows show it."""
    rows = sum(statistics.rows for statistics in counts.splits.values())
    classes: list[Label] = sorted(set[Any]().union(*counts.classes.values()))
    if all(isinstance(label, float) and label.is_integer() for label in classes):
        classes = [int(label) for label in classes]
    if column_kinds.infer_problem(classes, rows, options.problem) == "classification":
        warning = next(column.warning for column in plan.columns if column.name == plan.target)
        problem = column_kinds.problem_of_classes(classes, options.problem, plan.target, rows, warning)
        return Target(name=plan.target, problem=problem, classes=tuple(classes))
    _, _, _, low, high = counts.splits["train"].moments[plan.target]
    if low == high:
        raise DataError(
            "the target has only one value, there is nothing to learn", where=plan.target, detail=f"always {low:g}"
        )
    return Target(name=plan.target, problem="regression")
