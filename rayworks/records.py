"""Small frozen records that stages pass to each other: what was created, and where it is stored. Never the data itself.

Each record is stored as JSON beside what it describes, and is what a Prefect task returns.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ColumnKind = Literal["numeric", "categorical", "boolean", "timestamp", "ignored"]
TimestampPart = Literal["month", "day_of_year", "day_of_week", "hour"]
Problem = Literal["regression", "binary", "multiclass"]
SplitMethod = Literal["time", "hash", "random"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
Label = str | int | float | bool


class Record(BaseModel):
    """Base class of all records. Frozen and strict: a record written by another version is refused, not misread."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Record):
    """A column of the source data, as it was inferred or declared."""

    name: str
    kind: ColumnKind
    dtype: Literal["integer", "float", "string", "boolean", "timestamp"] = Field(
        description="Type of its values after validation."
    )
    declared: bool = Field(default=False, description="Whether the user declared it.")
    required: bool = Field(default=False, description="Whether rows without a value are rejected.")
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = Field(default=None, description="The valid values, as text.")
    missing: tuple[str, ...] | None = Field(
        default=None, description="The texts that mean a missing value. None: the usual ones."
    )
    note: str = Field(default="", description="Why it has this kind: 'every value differs', 'constant'.")
    warning: str = Field(default="", description="Why it may hold something else than was inferred.")


class Feature(Record):
    """An input of the model.

    Numeric features are floats (missing: NaN). Categorical features are strings: the model knows ``categories`` (most
    frequent first) and treats every other value as missing.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    source: str = Field(
        description="The raw column, or the column added by the feature function, that it is derived from."
    )
    part: TimestampPart | None = Field(default=None, description="The part of the timestamp that it holds.")
    categories: tuple[str, ...] = ()


class FeatureSet(Record):
    """Everything needed to turn a raw row into the model's inputs, in training and in serving."""

    columns: tuple[Column, ...] = Field(description="The raw input columns, without the target.")
    function: str | None = Field(default=None, description="Import path of the user's feature function.")
    features: tuple[Feature, ...]
    ignored: tuple[Column, ...] = Field(
        default=(), description="Columns that the model does not see. ``note`` has the reason."
    )


class Target(Record):
    """The column to predict.

    For classification, ``classes`` are the labels as they occur in the data, in the order of the model's class numbers
    0..k-1. For regression, it is empty.
    """

    name: str
    problem: Problem
    classes: tuple[Label, ...] = ()


class SourceFile(Record):
    """A source file as it was when it was read."""

    uri: str
    bytes: int
    modified: datetime | None


class ColumnStatistics(Record):
    """Statistics of one column in one split.

    ``edges`` (k+1) and ``counts`` (k) are the histogram of a numeric or timestamp column (timestamps in seconds since
    1970). For a categorical column, ``values`` and ``counts`` are its most frequent values.
    """

    name: str
    kind: ColumnKind
    rows: int
    missing: int
    mean: float | None = None
    deviation: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()


class TimeBlocks(Record):
    """Statistics of the training rows by consecutive blocks of time, of about as many rows each.

    Columns and the values of categorical columns are those of the training split, in the same order. The edges are
    left out: they are the same as well. Stored in ``{dataset}/blocks.json``.
    """

    starts: tuple[datetime, ...] = Field(description="The first time of each block.")
    blocks: tuple[tuple[ColumnStatistics, ...], ...]


class Split(Record):
    """One split of a dataset. ``uri`` is a folder of Parquet files with raw columns, features and target."""

    name: SplitName
    uri: str
    rows: int
    statistics: tuple[ColumnStatistics, ...] = ()


class DatasetRef(Record):
    """A reference to a processed dataset. ``{uri}/dataset.json`` holds its ``Dataset``."""

    uri: str
    fingerprint: str
    name: str
    target: str
    problem: Problem
    rows_in: int
    rows_kept: int
    rows_rejected: int


class Dataset(Record):
    """The manifest of a processed dataset. It is written last: if it exists, the dataset is complete."""

    name: str
    fingerprint: str
    uri: str
    target: Target
    feature_set: FeatureSet
    splits: tuple[Split, ...]
    split_by: str = Field(
        description="How rows were assigned, for people: 'by time (time_hour): train before 2013-08-07 05:00, …'."
    )
    split_method: SplitMethod
    split_column: str | None = Field(description="The timestamp or key that decided. None for a random split.")
    test_from: datetime | None = Field(
        default=None, description="By time: rows from then on are test rows, which no model learns from."
    )
    hold_out: str = Field(default="", description="Whether the champion has learned from the test rows, for people.")
    sources: tuple[SourceFile, ...]
    rows_in: int
    rows_kept: int
    rows_rejected: int
    reasons: dict[str, int] = Field(
        description="Number of rejected rows by reason. A row counts under its first reason only."
    )
    class_counts: dict[str, int] = Field(default_factory=dict, description="Training rows of each class.")
    unusable: dict[str, str] = Field(default_factory=dict, description="Files without a row that is kept, and why.")
    warnings: tuple[str, ...] = Field(default=(), description="What may have been understood wrongly, in sentences.")
    rejected_uri: str = Field(
        description="Folder of Parquet files with the rejected rows, each with file, row and reason."
    )

    def split(self, name: SplitName) -> Split:
        return next(split for split in self.splits if split.name == name)

    def ref(self) -> DatasetRef:
        return DatasetRef(
            uri=self.uri,
            fingerprint=self.fingerprint,
            name=self.name,
            target=self.target.name,
            problem=self.target.problem,
            rows_in=self.rows_in,
            rows_kept=self.rows_kept,
            rows_rejected=self.rows_rejected,
        )


class Trial(Record):
    """One trial of a hyperparameter search."""

    number: int
    hyperparameters: dict[str, float | int | str]
    metric: float | None = Field(
        description="Mean of the metric on the validation rows of the folds. None if the trial failed."
    )
    values: tuple[float, ...] = Field(
        default=(), description="The metric on each block of the folds. All trials have the same blocks."
    )
    rounds: int = Field(description="Mean of the best rounds on the folds.")
    seconds: float = Field(description="Sum over the folds.")
    state: Literal["completed", "failed"]
    error: str = ""


class TuneResult(Record):
    """The result of a hyperparameter search."""

    uri: str = Field(description="Folder of the search and its trials.")
    dataset_uri: str
    loop: str
    ended: datetime
    metric: str
    best: Trial
    trials: tuple[Trial, ...]
    resumed: int = Field(default=0, description="Number of trials reused from an interrupted search.")


class CurvePoint(Record):
    """A point of a learning curve."""

    round: int
    train: float | None
    validation: float


class ModelRef(Record):
    """A trained model that is not registered yet. ``uri`` is an MLflow model folder."""

    uri: str
    name: str
    dataset_uri: str
    dataset_fingerprint: str
    loop: str
    hyperparameters: dict[str, float | int | str]
    metric: str
    validation: float = Field(description="Metric on the validation split at the best round.")
    best_round: int
    earlier_best_round: int | None = Field(
        default=None, description="Best round on an earlier part of the training rows. None if not split by time."
    )
    refit_rounds: int | None = Field(
        default=None, description="Rounds of the refit, on training and validation rows. None if there was none."
    )
    seconds: float
    workers: int
    restarts: int = Field(default=0, description="How often training resumed from a checkpoint.")
    curve: tuple[CurvePoint, ...] = ()


class ModelVersion(Record):
    """A registered model version."""

    name: str
    version: int
    uri: str = Field(description="models:/name/version")
    run_id: str
    fingerprint: str = Field(description="Fingerprint of its inputs. The same inputs do not register a second version.")
    created: bool = Field(default=True, description="False if the same model was already registered.")


class Champion(Record):
    """The champion of a model, and what it was made from. ``dataset`` is None if that is no longer stored."""

    version: ModelVersion
    dataset: DatasetRef | None
    tune_uri: str | None = Field(description="The search that found its hyperparameters.")


class Metrics(Record):
    """Metric values by name, computed on a set of rows."""

    rows: int
    values: dict[str, float]


class Interval(Record):
    """By how much a candidate may be better than its rival on other rows like these, in the metric's units."""

    low: float
    high: float
    confidence: float


class SliceMetrics(Record):
    """Metrics of candidate, baseline and champion on the rows where ``column`` is ``value``."""

    column: str
    value: str
    candidate: Metrics
    baseline: Metrics
    champion: Metrics | None
    interval: Interval | None = Field(
        default=None,
        description="Of the improvement over the champion, wide enough for all slices at once. None: not known.",
    )


class PlotData(Record):
    """Series of equal length for a plot: calibration, residuals, importance."""

    name: str
    x: tuple[float | str, ...]
    series: dict[str, tuple[float, ...]]


class Evaluation(Record):
    """Metrics of a candidate, a naive baseline and the champion on the same hold-out rows."""

    uri: str
    metric: str
    dataset_uri: str
    candidate_uri: str
    champion_uri: str | None
    candidate: Metrics
    baseline: Metrics
    champion: Metrics | None
    champion_error: str = Field(default="", description="Why the champion could not be scored. Empty if it could.")
    learned: str = Field(default="", description="Why the candidate may have learned from these rows. Empty if not.")
    interval: Interval | None = Field(
        default=None,
        description="Of the improvement over the champion, or over the baseline without one. None: not known.",
    )
    slices: tuple[SliceMetrics, ...]
    plots: tuple[PlotData, ...]


class ServeCheck(Record):
    """The result of serving a candidate and comparing its responses with the model's own predictions."""

    uri: str = Field(description="Where this result is stored.")
    model_uri: str
    passed: bool
    rows: int = Field(description="Rows predicted over HTTP and compared with the model's own predictions.")
    largest_difference: float
    milliseconds_per_request: float
    findings: tuple[str, ...] = Field(default=(), description="Problems, one sentence each.")


class GateCheck(Record):
    """One condition of a promotion."""

    name: str
    passed: bool
    detail: str


class PromotionDecision(Record):
    """Whether the candidate was promoted to champion, and why."""

    promoted: bool
    changed: bool = Field(description="False if it already was the champion, or stayed a candidate.")
    reason: str
    candidate: ModelVersion
    previous: str | None = Field(description="URI of the champion before the decision.")
    checks: tuple[GateCheck, ...]
    uri: str = Field(description="Where this decision is stored.")


class Report(Record):
    """The report of a run."""

    uri: str = Field(description="URI of the HTML page.")
    address: str = Field(description="Where a browser opens the page: in MLflow. Where that has no address, the URI.")
    promoted: bool | None = Field(description="The promotion decision. None if there was nothing to decide.")
    summary: tuple[tuple[str, str], ...] = Field(description="Label and text of each line for a terminal.")
