"""What flows accept. These models are the form in the Prefect UI, the command line, and the Python interface."""

import contextlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: Any) -> Any:
    """The number that a text is, which is all that a command line knows."""
    if isinstance(value, str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
    return value


Hyperparameter = Annotated[float | int | str, BeforeValidator(_number)]


def parameter(title: str, description: str | None = None) -> Any:
    """How a flow's parameter is shown in a form and on the command line.

    Prefect gives each parameter of a flow its name for a title and no description, over what a ``Field`` says; the
    extra schema is all that it keeps.
    """
    shown: dict[str, Any] = {"title": title} if description is None else {"title": title, "description": description}
    return Field(**shown, json_schema_extra=shown)


DataUri = Annotated[
    str,
    parameter("Data", "File, folder or glob of Parquet, CSV or JSON lines: a path, s3://, gs:// or example://flights."),
]
DataTarget = Annotated[str, parameter("Target", "The column to predict.")]
DataName = Annotated[
    str | None,
    parameter("Name", "Of the dataset and the model: letters, digits, - and _. None: from the name of the data."),
    Field(pattern=r"^[A-Za-z0-9_-]+$"),
]
DatasetUri = Annotated[
    str, parameter("Dataset", "Folder of a dataset that the process flow made; its summary tells it.")
]
ModelUri = Annotated[
    str, parameter("Model", "Registered model: models:/name@champion, models:/name@candidate, or models:/name/version.")
]
Namespace = Annotated[str | None, parameter("Namespace", "Of Kubernetes, where to look. None: where this run is.")]
FromWorker = Annotated[
    bool, parameter("From a worker", "Whether to start Ray, as a run would, and to look from its workers too.")
]
ModelName = Annotated[str, parameter("Model", "Name of the registered model, such as flights.")]


def _positions(schema: dict[str, Any]) -> None:
    """Say where each field stands in the form, as Prefect does for a flow's own parameters: PostgreSQL keeps no order."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Options(BaseModel):
    """Frozen, and strict about names, so that a misspelt option is an error and not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=_positions)


class ColumnDeclaration(Options):
    """What must hold for a column. Whatever is not declared is inferred."""

    kind: Literal["auto", "numeric", "categorical", "boolean", "timestamp", "ignored"] = Field(
        default="auto", title="Kind", description="What the column holds. 'ignored' keeps it from the model."
    )
    required: bool = Field(default=False, title="Required", description="Set rows aside that have no value here.")
    minimum: float | None = Field(default=None, title="Minimum", description="Set rows aside whose value is smaller.")
    maximum: float | None = Field(default=None, title="Maximum", description="Set rows aside whose value is larger.")
    allowed: list[str] | None = Field(
        default=None, title="Allowed values", description="Set rows aside with any other value."
    )


class SplitOptions(Options):
    """How rows become training, validation and test rows. The same row always gets the same part."""

    by: Literal["auto", "time", "hash", "random"] = Field(
        default="auto",
        title="Split by",
        description="time: the newest rows are the test. hash: rows that share a key stay together. "
        "random: by the content of the row and the seed. auto: time if there is just one timestamp column, else random.",
    )
    column: str | None = Field(
        default=None,
        title="Column",
        description="The timestamp column, or the key column. None: the only timestamp column.",
    )
    validation: float = Field(
        default=0.15,
        gt=0,
        lt=0.9,
        title="Validation share",
        description="Of the rows: they stop training and rank trials.",
    )
    test: float = Field(
        default=0.15, gt=0, lt=0.9, title="Test share", description="Of the rows: held out, a model is judged by them."
    )
    seed: int = Field(
        default=0, title="Seed", description="Another seed puts other rows into the parts of a random split."
    )

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> "SplitOptions":
        if self.validation + self.test > 0.9:
            raise ValueError("validation and test shares leave less than a tenth of the rows for training")
        if self.by == "hash" and not self.column:
            raise ValueError("a split by hash needs a key column: set split.column")
        return self


class ProcessOptions(Options):
    """How data are read, validated, turned into features, and split."""

    format: Literal["auto", "parquet", "csv", "jsonl"] = Field(
        default="auto", title="Format", description="auto: by the file names."
    )
    problem: Literal["auto", "regression", "binary", "multiclass"] = Field(
        default="auto", title="Kind of problem", description="auto: by the target's values."
    )
    columns: dict[str, ColumnDeclaration] = Field(
        default_factory=dict,
        title="Columns",
        description='Declarations by column name, such as {"age": {"kind": "numeric", "minimum": 0, "required": true}}. '
        "Also allowed, maximum; kinds are numeric, categorical, boolean, timestamp, ignored. The others are inferred.",
    )
    feature_function: str | None = Field(
        default=None,
        title="Feature function",
        description="Import path of a function from a pandas DataFrame of raw rows to the same rows with columns added, "
        "such as my_features:add_columns.",
    )
    split: SplitOptions = Field(default_factory=SplitOptions, title="Split")
    max_categories: int = Field(
        default=1000,
        ge=2,
        le=100_000,
        title="Most categories",
        description="Values kept of a categorical column, the most frequent; the others count as missing.",
    )
    sample_rows: int = Field(
        default=20_000,
        ge=100,
        le=10_000_000,
        title="Rows to infer from",
        description="What columns hold is inferred from this many rows, spread over the files.",
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
        description='Passed to the loop, such as {"max_depth": 6, "learning_rate": 0.1}; they win over what tuning found.',
    )
    rounds: int = Field(default=400, ge=1, le=100_000, title="Most rounds", description="Boosting rounds or epochs.")
    early_stopping_rounds: int = Field(
        default=20, ge=1, title="Patience", description="Stop when validation has not improved for this many rounds."
    )
    workers: int = Field(
        default=1, ge=1, le=1024, title="Workers", description="Ray Train workers, each with its share of the rows."
    )
    cpus_per_worker: float | None = Field(
        default=None, gt=0, title="CPUs per worker", description="None: the CPUs of Ray shared equally."
    )
    gpus_per_worker: float = Field(
        default=0,
        ge=0,
        title="GPUs per worker",
        description="The built-in loop uses none unless a GPU build of XGBoost is installed.",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        title="Restarts",
        description="How often a training that lost a worker resumes from its last checkpoint.",
    )
    checkpoint_seconds: float = Field(
        default=15,
        gt=0,
        title="Seconds between checkpoints",
        description="So much training is lost with a worker, at most.",
    )


class FloatRange(Options):
    """Real values between two bounds."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = Field(default=False, description="Search on a logarithmic scale.")


class IntRange(Options):
    """Whole numbers between two bounds, both included."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False


class Choice(Options):
    """One of some values."""

    type: Literal["choice"] = "choice"
    values: list[Hyperparameter] = Field(min_length=1)


SearchDimension = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class TuneOptions(Options):
    """How hyperparameters are searched."""

    trials: int = Field(default=8, ge=0, le=10_000, title="Trials", description="0 tunes nothing.")
    seconds: float = Field(
        default=300,
        gt=0,
        title="Time limit in seconds",
        description="No trial starts after this; what was found until then counts.",
    )
    rounds: int = Field(
        default=100, ge=1, title="Most rounds a trial", description="Trials that fall behind are stopped before."
    )
    grace_rounds: int = Field(
        default=10, ge=1, title="Rounds before a trial may be stopped", description="ASHA's grace period."
    )
    max_rows: int = Field(
        default=100_000,
        ge=100,
        title="Training rows a trial",
        description="A sample of this many rows is enough to rank configurations.",
    )
    concurrent: int | None = Field(
        default=None, ge=1, title="Trials at a time", description="None: as many as there are CPUs for."
    )
    cpus_per_trial: float = Field(default=1, gt=0, title="CPUs per trial", description="Of Ray's CPUs.")
    space: dict[str, SearchDimension] | None = Field(
        default=None,
        title="Search space",
        description='By hyperparameter, such as {"max_depth": {"type": "int", "low": 3, "high": 10}}; or type float, both with log '
        "for a logarithmic scale; or type choice with values. None: what the loop's module names as SPACE.",
    )
    seed: int = Field(default=0, title="Seed", description="The same seed proposes the same first trials.")


class EvaluateOptions(Options):
    """How a model is judged."""

    metric: Literal["auto", "rmse", "mae", "log_loss", "error_rate"] = Field(
        default="auto",
        title="Metric",
        description="What decides; lower is better. auto: rmse for regression, log_loss for classification.",
    )
    slices: list[str] | None = Field(
        default=None,
        title="Slice by",
        description="Columns whose values make slices. None: the categorical columns with few values.",
    )
    minimum_slice_rows: int = Field(
        default=200,
        ge=1,
        title="Fewest rows of a slice",
        description="Smaller slices are left out: their metrics are noise.",
    )


class PromoteOptions(Options):
    """When a candidate becomes the champion."""

    margin: float = Field(
        default=0.005,
        ge=0,
        lt=1,
        title="Margin",
        description="The candidate's metric must be better by this share of the champion's.",
    )
    slice_tolerance: float = Field(
        default=0.05,
        ge=0,
        title="Slice tolerance",
        description="On no slice may its metric be worse by more than this share of the champion's.",
    )


class ServeOptions(Options):
    """How a model is served."""

    host: str = Field(default="127.0.0.1", title="Address to bind", description="Only this machine by default.")
    port: int = Field(default=8000, ge=0, le=65535, title="Port", description="0 takes a free one.")
    replicas: int = Field(
        default=1, ge=1, le=1000, title="Replicas", description="Processes that answer, each with the model in memory."
    )
    cpus_per_replica: float = Field(default=0.5, ge=0, title="CPUs per replica", description="Reserved of Ray's CPUs.")
    max_batch_rows: int = Field(
        default=256,
        ge=1,
        title="Rows a batch",
        description="Requests that arrive together are predicted together, up to this many rows; one that has more goes alone.",
    )
    batch_wait_ms: float = Field(
        default=5,
        ge=0,
        le=1000,
        title="Milliseconds to wait for a batch",
        description="The first request of a batch waits for others.",
    )


class ServeCheckOptions(Options):
    """How a candidate is tried before it may be promoted."""

    rows: int = Field(
        default=100, ge=1, le=10_000, title="Rows", description="Hold-out rows that are asked for over HTTP."
    )
    timeout_seconds: float = Field(default=120, gt=0, title="Time limit in seconds", description="Of each request.")
