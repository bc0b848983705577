"""Count what arrived as the training rows were counted, with the champion's predictions. Knows nothing of Ray.

New rows are files of the columns that the model was trained on, with or without the target. A log of predictions may
add what the model predicted, its version and the time of the request: they are other columns, and are not read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from rayworks.data import features, manifest, planning, reading, split_rows, validation
from rayworks.data.reading import Chunk
from rayworks.data.statistics import Statistics
from rayworks.errors import DataError
from rayworks.models.predictions import finite, predictions
from rayworks.models.tabular import TabularModel
from rayworks.records import Column, Dataset, Target

PREDICTION = "rayworks.prediction"  # a name that no user's column has
HOLD_OUT_ROWS = 50_000


@dataclass(frozen=True)
class Outcomes:
    """Rows with a label."""

    actual: np.ndarray
    predicted: np.ndarray
    split_values: np.ndarray | None
    """What would assign the rows to splits: times or keys, by which they depend on each other."""


@dataclass
class NewRows:
    """What was counted in one chunk, or in several that were merged. Outcomes take 24 bytes a row or, for each class, 8
    more."""

    labelled: Statistics
    unlabelled: Statistics
    rows_in: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    outcomes: list[Outcomes] = field(default_factory=list[Outcomes])

    @property
    def kept(self) -> int:
        return self.labelled.rows + self.unlabelled.rows

    def merge(self, other: "NewRows") -> None:
        """Add the counts of another chunk."""
        self.labelled.merge(other.labelled)
        self.unlabelled.merge(other.unlabelled)
        self.rows_in += other.rows_in
        self.reasons.update(other.reasons)
        self.outcomes += other.outcomes


def none_yet(edges: Mapping[str, tuple[float, ...]]) -> NewRows:
    """Return counts of no rows, with histogram edges by column."""
    return NewRows(Statistics(dict(edges)), Statistics(dict(edges)))


def count(chunk: Chunk, dataset: Dataset, model: TabularModel, edges: Mapping[str, tuple[float, ...]]) -> NewRows:
    """Read a chunk by the rules of the dataset, and count its rows, features and predictions.

    Args:
        chunk: Of a file of new rows.
        dataset: What the model was trained on.
        model: The champion.
        edges: Histogram edges of each numeric column, those of the training rows, and of ``PREDICTION``.

    Raises:
        DataError: The file has none of the model's columns.
        TrainingError: The model's predictions are not finite numbers.
    """
    counts, records, feature_set = none_yet(edges), 0, dataset.feature_set
    columns = _read_columns(dataset)
    for batch in reading.batches(chunk):
        _check_columns(batch.rows, dataset, chunk.uri)
        valid, invalid = validation.validate(batch.rows, columns, target="")
        records += batch.records
        counts.rows_in += len(batch.rows) + len(batch.malformed)
        reasons = [*invalid[validation.REASON], *(reason for _, _, reason in batch.malformed)]
        counts.reasons.update(map(validation.reason_class, reasons))
        if valid.is_empty():
            continue
        rows = planning.with_features(valid, feature_set)
        predicted = predict(model, rows)
        rows = rows.with_columns(as_column(dataset.target, predicted))
        has_label = rows[dataset.target.name].is_not_null()
        labelled = rows.filter(has_label)
        counts.labelled.add(labelled)
        counts.unlabelled.add(rows.filter(~has_label))
        counts.outcomes.append(outcomes(dataset, labelled, predicted[has_label.to_numpy()]))
    manifest.check_sum(chunk.uri, records, counts.rows_in, counts.kept, counts.reasons.total())
    return counts


def sample(chunk: Chunk, dataset: Dataset, columns: Sequence[str], share: float) -> list[pl.DataFrame]:
    """Return a random share of the valid rows of a chunk, read by the rules of the dataset, in parts.

    Args:
        chunk: Of a file of new rows.
        dataset: What the model was trained on.
        columns: The names of columns, features and the target. If the target is one of them, rows without it are left
            out.
        share: Of the rows, from 0 to 1.
    """
    parts: list[pl.DataFrame] = []
    read = _read_columns(dataset)
    for batch in reading.batches(chunk):
        valid, _ = validation.validate(batch.rows, read, target="")
        rows = planning.with_features(valid, dataset.feature_set).select(columns)
        if dataset.target.name in columns:
            rows = rows.drop_nulls(dataset.target.name)
        parts.append(rows.sample(fraction=share, seed=chunk.number))
    return parts


def _read_columns(dataset: Dataset) -> tuple[Column, ...]:
    return (*dataset.feature_set.columns, *dataset.feature_set.ignored, _target_column(dataset.target))


def _check_columns(rows: pl.DataFrame, dataset: Dataset, file: str) -> None:
    names = [column.name for column in dataset.feature_set.columns]
    if not set(names) & set(rows.columns):
        raise DataError(
            "the file has none of the model's columns",
            where=file,
            detail=f"it has {', '.join(rows.columns[:5])}; the model needs {', '.join(names[:5])}",
            remedy="Name files of rows as those that the model was trained on",
        )


def _target_column(target: Target) -> Column:
    """The target, which new rows may lack; a class that the model does not know is no label."""
    if target.problem == "regression":
        return Column(name=target.name, kind="numeric", dtype="float")
    kinds = {bool: "boolean", int: "integer", float: "float", str: "string"}
    dtype = kinds[type(target.classes[0])]
    allowed = tuple(str(label) for label in target.classes)
    return Column.model_validate({"name": target.name, "kind": "categorical", "dtype": dtype, "allowed": allowed})


def predict(model: TabularModel, rows: pl.DataFrame) -> np.ndarray:
    """Return the predictions for rows that have their features already: values, or probabilities (rows by classes).

    Raises:
        TrainingError: They are not finite numbers.
    """
    encoded = features.encode(rows, model.feature_set.features)
    return finite(predictions(model.model, encoded, classes=len(model.target.classes)))


def as_column(target: Target, predicted: np.ndarray) -> pl.Series:
    """Return predictions as a column to count: amounts, probabilities of the second of two classes, or classes."""
    if target.problem == "multiclass":
        labels = [str(label) for label in target.classes]
        return pl.Series(PREDICTION, [labels[number] for number in predicted.argmax(axis=1)], pl.String)
    return pl.Series(PREDICTION, predicted[:, 1] if target.problem == "binary" else predicted)


def outcomes(dataset: Dataset, rows: pl.DataFrame, predicted: np.ndarray) -> Outcomes:
    """Return the outcomes of rows with a label."""
    actual = features.encode_target(rows[dataset.target.name], dataset.target)
    return Outcomes(actual, predicted, split_rows.split_values(dataset, rows))


def hold_out(dataset: Dataset, model: TabularModel) -> tuple[pl.DataFrame, Outcomes]:
    """Return the predictions for some hold-out rows, in the order of time where there is one, with their outcomes."""
    names = [*(feature.name for feature in dataset.feature_set.features), dataset.target.name]
    names += [dataset.split_column] if dataset.split_column else []
    rows = split_rows.spread(dataset, "test", names, HOLD_OUT_ROWS)
    if dataset.split_method == "time":
        rows = rows.sort(dataset.split_column or [])
    predicted = predict(model, rows)
    return as_column(dataset.target, predicted).to_frame(), outcomes(dataset, rows, predicted)
