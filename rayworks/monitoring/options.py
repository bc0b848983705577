"""The parameters of ``watch`` and ``retrain``, which are forms in the Prefect UI and arguments on the command line."""

from typing import Annotated, Literal

from pydantic import Field

from rayworks.form import Options, parameter
from rayworks.metrics import DecidingMetric
from rayworks.params import TextEncoding

WatchName = Annotated[
    str,
    parameter(
        "Watch",
        "A new name for what you watch: lower-case letters, digits and -, such as flights-live. The model gets it too.",
    ),
    Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"),
]
Source = Annotated[
    str,
    parameter(
        "Source",
        "Where new files arrive: a folder or a glob of Parquet, CSV or JSON lines, such as s3://lake/flights/ or "
        "/data/flights/*.parquet. It may be empty yet.",
    ),
]
WatchedName = Annotated[
    str | None,
    parameter("Model", "Name of the dataset and the model: letters, digits, - and _. None: the name of the watch."),
    Field(pattern=r"^[A-Za-z0-9_-]+$"),
]
NewRowsUri = Annotated[
    str,
    parameter("Data", "New rows as the model was trained on, with or without the target: a file, a folder or a glob."),
]

BatchNumber = Annotated[int, parameter("Batch", "The number of the batch in the ledger of the watch."), Field(ge=1)]
Arrived = Annotated[
    tuple[str, ...], parameter("Arrived", "Files of the batch, for people to see: the ledger says what is learned.")
]


class WatchOptions(Options):
    """When new files become a batch, and how often a batch is tried."""

    first: Literal["history", "batch"] = Field(
        default="history",
        title="At the first look",
        description="What is there already. history: it starts nothing, and later retrainings learn from it. "
        "batch: it starts the first retraining.",
    )
    settle_seconds: float = Field(
        default=60,
        ge=0,
        le=86_400,
        title="Settling time",
        description="Seconds without a change until a file is complete. 0 where files appear whole, as on S3.",
    )
    attempts: int = Field(
        default=3, ge=1, le=100, title="Attempts", description="How often a batch is tried before it has failed."
    )
    retry_seconds: float = Field(
        default=300,
        ge=0,
        le=86_400,
        title="Wait before a retry",
        description="Seconds after a failed attempt. They double with each further one.",
    )


class RetrainOptions(Options):
    """Whether a batch is worth a training, and when hyperparameters are searched again."""

    when: Literal["always", "on drift", "never"] = Field(
        default="always",
        title="Retrain",
        description="always: for each batch. on drift: if the batch differs from what the champion learned from, or "
        "the champion is worse on it. never: not at all. Later retrainings learn from a batch that was skipped.",
    )
    cool_down_days: float = Field(
        default=0,
        ge=0,
        title="Cool-down",
        description="Days after a retraining in which batches are skipped.",
    )
    search_days: float | None = Field(
        default=30,
        ge=0,
        title="Search again after days",
        description="Until then, the hyperparameters are those of the champion's search. 0: search each time. "
        "None: only where the champion has none.",
    )


class Window(Options):
    """Which data a retraining learns from, beside the batch that arrived."""

    batches: int | None = Field(
        default=None, ge=1, title="Batches", description="The last batches, the new one among them. None: all."
    )
    days: float | None = Field(
        default=None, gt=0, title="Days", description="Batches that arrived in so many days before. None: all."
    )


class MonitorOptions(Options):
    """How new rows are read, and when they are compared."""

    format: Literal["auto", "parquet", "csv", "jsonl"] = Field(
        default="auto", title="Format", description="Of the files. auto: inferred from their names."
    )
    encoding: TextEncoding = Field(
        default="utf-8", title="Encoding", description="Of CSV and JSON lines: utf-8, latin-1, cp1252, utf-16, …"
    )
    minimum_rows: int = Field(
        default=500, ge=1, title="Fewest rows", description="With fewer valid rows than these, nothing is alarmed."
    )
    metric: DecidingMetric = Field(
        default="auto",
        title="Deciding metric",
        description="What tells whether the model became worse where labels have come. auto: RMSE or log loss.",
    )
    evidently_rows: int | None = Field(
        default=None,
        ge=100,
        le=100_000,
        title="Rows for Evidently",
        description="About how many of the training rows, and of the new ones, Evidently compares on a page of its "
        "own. It decides nothing. None: no such page. Needs the extra evidently.",
    )
