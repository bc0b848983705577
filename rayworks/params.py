"""Parameters of flows. These models define the form in the Prefect UI, the command line and the Python interface."""

import contextlib
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rayworks.form import Options, parameter
from rayworks.metrics import DEFAULT, DecidingMetric


def _number(value: Any) -> Any:
    """Parse text as a number where possible: command-line arguments are text."""
    if isinstance(value, str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
    return value


def _text_encoding(name: str) -> str:
    """Check that Python can read text in this encoding."""
    try:
        " ".encode(name)
    except LookupError:
        raise ValueError(
            f"{name} is not an encoding of text; common ones are utf-8, latin-1, cp1252 and utf-16"
        ) from None
    return name


TextEncoding = Annotated[str, AfterValidator(_text_encoding)]
Hyperparameter = Annotated[float | int | str, BeforeValidator(_number)]
DataUri = Annotated[
    str,
    parameter("Data", "File, folder or glob of Parquet, CSV or JSON lines: a path, s3://, gs:// or example://flights."),
]
DataUris = Annotated[
    str | list[str],
    parameter("Data", "One or several files, folders or globs of Parquet, CSV or JSON lines: paths, s3:// or gs://."),
]
DataTarget = Annotated[str, parameter("Target", "The column to predict.")]
DataName = Annotated[
    str | None,
    parameter(
        "Name", "Name of the dataset and the model: letters, digits, - and _. None: derived from the name of the data."
    ),
    Field(pattern=r"^[A-Za-z0-9_-]+$"),
]
DatasetUri = Annotated[
    str, parameter("Dataset", "Folder of a dataset created by the process flow, as shown in that flow's summary.")
]
ModelUri = Annotated[
    str, parameter("Model", "Registered model: models:/name@champion, models:/name@candidate, or models:/name/version.")
]
ModelName = Annotated[str, parameter("Model", "Name of the registered model, such as flights.")]


class ColumnDeclaration(Options):
    """Constraints on a column. Everything that is not declared is inferred."""

    kind: Literal["auto", "numeric", "categorical", "boolean", "timestamp", "ignored"] = Field(
        default="auto", title="Kind", description="What the column holds. 'ignored' hides it from the model."
    )
    required: bool = Field(default=False, title="Required", description="Reject rows without a value in this column.")
    minimum: float | None = Field(default=None, title="Minimum", description="Reject rows with a smaller value.")
    maximum: float | None = Field(default=None, title="Maximum", description="Reject rows with a larger value.")
    allowed: list[str] | None = Field(
        default=None, title="Allowed values", description="Reject rows with any other value."
    )


class SplitOptions(Options):
    """How rows are split into train, validation and test. A row is always assigned to the same split."""

    by: Literal["auto", "time", "hash", "random"] = Field(
        default="auto",
        title="Split by",
        description="time: the newest rows are the test split. hash: rows with the same key stay together. "
        "random: by file, row number and seed. auto: time if there is exactly one timestamp column, else random.",
    )
    column: str | None = Field(
        default=None,
        title="Column",
        description="Timestamp or key column. None: the only timestamp column.",
    )
    validation: float = Field(
        default=0.15,
        gt=0,
        lt=0.9,
        title="Validation share",
        description="Share of the rows used for early stopping and to rank trials.",
    )
    test: float = Field(
        default=0.15, gt=0, lt=0.9, title="Test share", description="Share of the rows held out to evaluate models."
    )
    test_from: datetime | None = Field(
        default=None,
        title="Test from",
        description="Only by time: rows from this time on (UTC) are the test split, whatever their share. The rows "
        "before it are divided in the ratio of the other shares.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, title="Seed", description="Seed of a random split.")

    @model_validator(mode="after")
    def _fits(self) -> "SplitOptions":
        if self.test_from and self.by in ("hash", "random"):
            raise ValueError("test_from needs a split by time")
        if self.validation + self.test > 0.9:
            raise ValueError("validation and test shares leave less than a tenth of the rows for training")
        if self.by == "hash" and not self.column:
            raise ValueError("a split by hash needs a key column: set split.column")
        return self


class ProcessOptions(Options):
    """How data is read, validated, turned into features and split."""

    format: Literal["auto", "parquet", "csv", "jsonl"] = Field(
        default="auto", title="Format", description="auto: inferred from the file names."
    )
    encoding: TextEncoding = Field(
        default="utf-8",
        title="Encoding",
        description="Of CSV and JSON lines: utf-8, latin-1, cp1252, utf-16, or another that Python knows.",
    )
    problem: Literal["auto", "regression", "binary", "multiclass"] = Field(
        default="auto", title="Kind of problem", description="auto: inferred from the target's values."
    )
    columns: dict[str, ColumnDeclaration] = Field(
        default_factory=dict,
        title="Columns",
        description='By column name, such as {"age": {"kind": "numeric", "minimum": 0, "required": true}}. '
        "Also allowed and maximum. Kinds: numeric, categorical, boolean, timestamp, ignored. Others are inferred.",
    )
    missing_values: list[str] | None = Field(
        default=None,
        title="Missing values",
        description='Texts that mean a missing value, such as ["NA", "-"]. None: the usual ones, such as NA, n/a, NaN, '
        "null, None and ?. An empty value is always missing.",
    )
    feature_function: str | None = Field(
        default=None,
        title="Feature function",
        description="Import path of a function that takes a pandas DataFrame of raw rows and returns the same rows "
        "with columns added, such as my_features:add_columns.",
    )
    split: SplitOptions = Field(default_factory=SplitOptions, title="Split")
    max_categories: int = Field(
        default=1000,
        ge=2,
        le=100_000,
        title="Maximum categories",
        description="The most frequent values of a categorical column that are kept. All others count as missing.",
    )
    sample_rows: int = Field(
        default=20_000,
        ge=100,
        le=10_000_000,
        title="Rows to infer from",
        description="Column types are inferred from about this many rows, spread over the files and over each of them.",
    )


class TrainOptions(Options):
    """How a model is trained."""

    loop: str = Field(
        default="rayworks.training.loops.xgboost:train",
        title="Training loop",
        description="Import path of a function that takes a TrainContext and returns a model.",
    )
    hyperparameters: dict[str, Hyperparameter] = Field(
        default_factory=dict,
        title="Hyperparameters",
        description='Passed to the loop, such as {"max_depth": 6, "learning_rate": 0.1}. Override those of tuning.',
    )
    rounds: int = Field(
        default=2000,
        ge=1,
        le=100_000,
        title="Maximum rounds",
        description="Boosting rounds or epochs. Early stopping usually ends training before.",
    )
    early_stopping_rounds: int = Field(
        default=50,
        ge=1,
        title="Patience",
        description="Stop when the validation metric has not improved for this many rounds, and keep the best. "
        "A smaller learning rate needs more rounds and more patience.",
    )
    refit: bool = Field(
        default=True,
        title="Refit",
        description="When the best number of rounds is known, train again on training and validation rows together. "
        "Rounds grow with the rows. Where rows are split by time, the number is the mean of two validations: on the "
        "newest rows, and on earlier ones. Training takes two to three times as long.",
    )
    workers: int = Field(default=1, ge=1, le=1024, title="Workers", description="Each trains on its shard of the rows.")
    cpus_per_worker: float | None = Field(
        default=None, gt=0, title="CPUs per worker", description="None: an equal share of Ray's CPUs."
    )
    gpus_per_worker: float = Field(
        default=0,
        ge=0,
        title="GPUs per worker",
        description="The built-in loop uses GPUs only with a GPU build of XGBoost.",
    )
    memory_per_worker: float | None = Field(
        default=None,
        gt=0,
        title="Memory per worker",
        description="In GiB. Each worker runs where that much is free of what Ray may use. None: none is reserved.",
    )
    max_memory_per_worker: float | None = Field(
        default=None,
        gt=0,
        title="Maximum memory per worker",
        description="In GiB. When a worker runs out of memory, training resumes from its last checkpoint with twice "
        "the memory per worker, up to this. Requires the memory per worker.",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        title="Maximum restarts",
        description="How often training resumes from its last checkpoint after a worker is lost.",
    )
    checkpoint_seconds: float = Field(
        default=15,
        gt=0,
        title="Seconds between checkpoints",
        description="At most this much training is lost with a worker.",
    )

    @model_validator(mode="after")
    def _more_memory_needs_some(self) -> Self:
        if self.max_memory_per_worker and self.max_memory_per_worker < (self.memory_per_worker or float("inf")):
            raise ValueError("max_memory_per_worker needs a memory_per_worker that is not larger")
        return self


class FloatRange(Options):
    """Real numbers between two bounds."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = Field(default=False, description="Search on a logarithmic scale.")


class IntRange(Options):
    """Integers between two bounds, both inclusive."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False


class Choice(Options):
    """One of a list of values."""

    type: Literal["choice"] = "choice"
    values: list[Hyperparameter] = Field(min_length=1)


SearchDimension = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class TuneOptions(Options):
    """How hyperparameters are tuned."""

    trials: int = Field(default=8, ge=0, le=10_000, title="Trials", description="0 disables tuning.")
    seconds: float = Field(
        default=300,
        gt=0,
        title="Time limit in seconds",
        description="No trial starts after this limit. The best trial so far is used.",
    )
    max_rows: int = Field(
        default=50_000,
        ge=100,
        title="Rows per trial",
        description="Trials train and validate on folds of a sample of this many rows.",
    )
    concurrent: int | None = Field(
        default=None,
        ge=1,
        title="Concurrent runs",
        description="Folds of trials that run at once. None: as many as the CPUs allow.",
    )
    cpus_per_trial: float = Field(
        default=1, gt=0, title="CPUs per run", description="CPUs that Ray reserves for each fold of a trial."
    )
    space: dict[str, SearchDimension] | None = Field(
        default=None,
        title="Search space",
        description='By hyperparameter, such as {"max_depth": {"type": "int", "low": 3, "high": 10}}; or type float, '
        "both with log for a logarithmic scale; or type choice with values. None: the SPACE of the loop's module.",
    )
    seed: int = Field(default=0, ge=0, le=2**31, title="Seed", description="Equal seeds suggest the same first trials.")


class EvaluateOptions(Options):
    """How a model is evaluated."""

    metric: DecidingMetric = Field(
        default="auto",
        title="Metric",
        description="The metric that decides on a promotion; it must fit the problem. "
        f"auto: {DEFAULT['regression']} for regression, {DEFAULT['binary']} for classification.",
    )
    slices: list[str] | None = Field(
        default=None,
        title="Slice by",
        description="Columns whose values define slices. None: the categorical columns with few values.",
    )
    minimum_slice_rows: int = Field(
        default=200,
        ge=1,
        title="Minimum slice rows",
        description="Smaller slices are skipped: their metrics are noise.",
    )
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        title="Confidence",
        description="Of the intervals of the candidate's gain over its rival. A promotion needs a gain by more than "
        "chance: all of the interval above zero.",
    )


class PromoteOptions(Options):
    """When a candidate is promoted to champion."""

    margin: float = Field(
        default=0.005,
        ge=0,
        lt=1,
        title="Margin",
        description="Relative improvement over the champion's metric that a candidate needs.",
    )
    slice_tolerance: float = Field(
        default=0.05,
        ge=0,
        title="Slice tolerance",
        description="Maximum relative loss against the champion's metric on any slice, unless it may be chance.",
    )
    minimum_rows: int = Field(
        default=30, ge=2, title="Minimum rows", description="Hold-out rows that a promotion needs at least."
    )


class ServeOptions(Options):
    """How a model is served."""

    host: str = Field(
        default="127.0.0.1",
        title="Address to bind",
        description="The default accepts connections from this machine only.",
    )
    port: int = Field(default=8000, ge=0, le=65535, title="Port", description="0 chooses a free port.")
    replicas: int = Field(
        default=1,
        ge=1,
        le=1000,
        title="Replicas",
        description="Processes that serve requests, each with the model in memory.",
    )
    cpus_per_replica: float = Field(
        default=0.5, ge=0, title="CPUs per replica", description="CPUs that Ray reserves for each replica."
    )
    max_batch_rows: int = Field(
        default=256,
        ge=1,
        title="Rows per batch",
        description="Concurrent requests are predicted in batches of up to this many rows. "
        "A larger request is a batch of its own.",
    )
    batch_wait_ms: float = Field(
        default=5,
        ge=0,
        le=1000,
        title="Batch wait in milliseconds",
        description="How long the first request of a batch waits for others.",
    )


class ServeCheckOptions(Options):
    """How a candidate's serving is checked before it may be promoted."""

    rows: int = Field(default=100, ge=1, le=10_000, title="Rows", description="Hold-out rows to predict over HTTP.")
    timeout_seconds: float = Field(
        default=120, gt=0, title="Timeout in seconds", description="Timeout of each request."
    )
