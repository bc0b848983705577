"""The small frozen records that stages hand each other: what was made, and where it is. Never the data themselves.

Each is stored as JSON beside what it describes, and is what a Prefect task returns.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ColumnKind = Literal["numeric", "categorical", "boolean", "timestamp", "ignored"]
TimestampPart = Literal["month", "day_of_year", "day_of_week", "hour"]
Problem = Literal["regression", "binary", "multiclass"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
Label = str | int | float | bool


class Record(BaseModel):
    """Frozen, and strict about its fields, so that a record of another version is refused and not misread."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Record):
    """A column of the source, as it was understood."""

    name: str
    kind: ColumnKind
    dtype: Literal["integer", "float", "string", "boolean", "timestamp"] = Field(
        description="How its values are stored after validation."
    )
    declared: bool = Field(default=False, description="Declared by the user, not inferred.")
    required: bool = Field(default=False, description="A row without a value here is set aside.")
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = Field(default=None, description="The only values that are valid, as text.")
    note: str = Field(default="", description="Why it is of this kind: 'every value differs', 'constant'.")


class Feature(Record):
    """A column that the model sees. Numeric features are floats (missing: NaN); categorical ones are strings
    of which the model knows ``categories`` (most frequent first) and takes every other as missing."""

    name: str
    kind: Literal["numeric", "categorical"]
    source: str = Field(description="The raw column, or column added by the feature function, that it was made from.")
    part: TimestampPart | None = Field(default=None, description="The part of the timestamp that it is.")
    categories: tuple[str, ...] = ()


class FeatureSet(Record):
    """All that is needed to turn a raw row into what a model sees, at training and at serving alike."""

    columns: tuple[Column, ...] = Field(description="The raw input columns, without the target.")
    function: str | None = Field(default=None, description="The user's feature function, by import path.")
    features: tuple[Feature, ...]
    ignored: tuple[Column, ...] = Field(
        default=(), description="Columns that the model does not see, each with its reason."
    )


class Target(Record):
    """What is predicted. For classification ``classes`` are the labels as they stand in the data, in the order
    of the model's class numbers 0..k-1; for regression there are none."""

    name: str
    problem: Problem
    classes: tuple[Label, ...] = ()


class SourceFile(Record):
    """A file that was read, as it was at the time."""

    uri: str
    bytes: int
    modified: datetime | None


class ColumnStatistics(Record):
    """What the rows of one split look like in one column. ``edges`` (k+1) and ``counts`` (k) are the histogram of a
    numeric or timestamp column (timestamps as seconds since 1970); ``values`` and ``counts`` the most frequent values of a
    categorical one."""

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


class Split(Record):
    """One part of a dataset: ``{uri}`` is a folder of Parquet files that hold the raw columns, the features and the target."""

    name: SplitName
    uri: str
    rows: int
    statistics: tuple[ColumnStatistics, ...] = ()


class DatasetRef(Record):
    """A processed dataset, by reference. ``{uri}/dataset.json`` is its ``Dataset``."""

    uri: str
    fingerprint: str
    name: str
    target: str
    problem: Problem
    rows_in: int
    rows_kept: int
    rows_rejected: int


class Dataset(Record):
    """The manifest of a processed dataset. It is written last: where it is, the dataset is whole."""

    name: str
    fingerprint: str
    uri: str
    target: Target
    feature_set: FeatureSet
    splits: tuple[Split, ...]
    split_by: str = Field(description="How rows were assigned, in words: 'time_hour: before 2013-09-13 train, …'.")
    sources: tuple[SourceFile, ...]
    rows_in: int
    rows_kept: int
    rows_rejected: int
    reasons: dict[str, int] = Field(description="Rows set aside, by reason. A row has one reason: the first found.")
    class_counts: dict[str, int] = Field(default_factory=dict, description="Training rows of each class.")
    rejected_uri: str = Field(
        description="Folder of Parquet files with the rows set aside, each with file, row and reason."
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
    """One configuration that was tried."""

    number: int
    hyperparameters: dict[str, float | int | str]
    metric: float | None = Field(
        description="Best validation value of the tuning metric; none if it failed before its first report."
    )
    rounds: int
    seconds: float
    state: Literal["completed", "stopped early", "failed"]
    error: str = ""


class TuneResult(Record):
    """The outcome of a search."""

    uri: str = Field(description="Folder of the search, with its trials.")
    metric: str
    best: Trial
    trials: tuple[Trial, ...]
    resumed: int = Field(default=0, description="Trials taken over from an interrupted search.")


class CurvePoint(Record):
    """A point of a learning curve."""

    round: int
    train: float | None
    validation: float


class ModelRef(Record):
    """A trained model that is not registered yet. ``{uri}`` is an MLflow model folder."""

    uri: str
    name: str
    dataset_uri: str
    dataset_fingerprint: str
    loop: str
    hyperparameters: dict[str, float | int | str]
    metric: str
    validation: float = Field(description="The metric on the validation split, at the best round.")
    best_round: int
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
    fingerprint: str = Field(description="Of what it was made from; the same inputs register no second version.")
    created: bool = Field(default=True, description="False when this very model was registered before.")


class Metrics(Record):
    """Metric values by name on some rows."""

    rows: int
    values: dict[str, float]


class SliceMetrics(Record):
    """Metrics of candidate and champion on the rows where ``column`` is ``value``."""

    column: str
    value: str
    candidate: Metrics
    baseline: Metrics
    champion: Metrics | None


class PlotData(Record):
    """Named series of numbers or labels of equal length, made to be drawn: calibration, residuals, importance."""

    name: str
    x: tuple[float | str, ...]
    series: dict[str, tuple[float, ...]]


class Evaluation(Record):
    """A candidate beside a naive baseline and the champion, on the same hold-out rows. Lower ``metric`` is better."""

    uri: str
    metric: str
    dataset_uri: str
    candidate_uri: str
    champion_uri: str | None
    candidate: Metrics
    baseline: Metrics
    champion: Metrics | None
    champion_error: str = Field(default="", description="Why the champion could not be scored, if it could not.")
    slices: tuple[SliceMetrics, ...]
    plots: tuple[PlotData, ...]


class ServeCheck(Record):
    """What a candidate answered when it was served for a trial."""

    model_uri: str
    passed: bool
    rows: int = Field(description="Rows asked for over HTTP and compared with the model's own predictions.")
    largest_difference: float
    milliseconds_per_request: float
    findings: tuple[str, ...] = Field(default=(), description="What was wrong, one sentence each.")


class GateCheck(Record):
    """One condition of the promotion."""

    name: str
    passed: bool
    detail: str


class PromotionDecision(Record):
    """Whether the candidate became the champion, and why."""

    promoted: bool
    changed: bool = Field(description="False when it was the champion already, or stayed a candidate.")
    reason: str
    candidate: ModelVersion
    previous: str | None = Field(description="URI of the champion before the decision.")
    checks: tuple[GateCheck, ...]
    uri: str = Field(description="Where this decision is kept.")


class Report(Record):
    """What people look at after a run."""

    uri: str = Field(description="The HTML page.")
    promoted: bool | None = Field(description="The decision; none if nothing was to be decided.")
    summary: tuple[tuple[str, str], ...] = Field(description="Name and text of each line for a terminal.")
