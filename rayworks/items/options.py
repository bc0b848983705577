"""Parameters of ``fan_out``. They define the form in the Prefect UI, the command line and the Python interface."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rayworks.form import Options, parameter

Function = Annotated[
    str,
    parameter(
        "Function",
        "module:function, which takes an item (or a list of them, with a batch size) and returns its result; or "
        "module:Class, which is built once in each worker process and then called.",
    ),
]
Items = Annotated[
    str,
    parameter(
        "Items",
        "File, folder or glob of text lines, JSON lines, CSV or Parquet: a path, s3:// or gs://. Or a range of whole "
        "numbers, such as 0:1000; or a JSON list.",
    ),
]


def _text(value: Any) -> Any:
    """Return a number as text: Prefect's form has no field for a number or a text."""
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else value


class FanOutOptions(Options):
    """How a function is applied to many items."""

    arguments: dict[str, Any] = Field(
        default={}, title="Arguments", description="Keyword arguments of every call (of the class, when it is built)."
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        title="Batch size",
        description="Call the function with a list of up to this many items; it returns a list of as many results. "
        "None: with one item.",
    )
    retries: int = Field(default=0, ge=0, le=100, title="Retries", description="How often a failed item is retried.")
    retry_seconds: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        title="Seconds before a retry",
        description="Twice as long before each further one. The worker waits meanwhile.",
    )
    timeout_seconds: float | None = Field(
        default=None,
        gt=0,
        title="Time limit",
        description="Seconds that a call may take; one that does not react is ended with its worker process.",
    )
    max_failures: Annotated[str | None, BeforeValidator(_text)] = Field(
        default=None,
        pattern=r"^(\d+|0?\.\d+|\d+(\.\d+)?%)$",
        title="Failures allowed",
        description="A number of items, or a share of all, such as 5%. One more ends the run at once. None: the run "
        "processes all items, and fails at its end if any failed.",
    )
    num_cpus: float = Field(default=1, ge=0, title="CPUs", description="CPUs of a call.")
    num_gpus: float = Field(default=0, ge=0, title="GPUs", description="GPUs of a call.")
    memory_gib: float | None = Field(
        default=None, gt=0, title="Memory (GiB)", description="Memory that a call requests of its node. None: no claim."
    )
    resources: dict[str, float] = Field(
        default={}, title="Ray resources", description="Custom resources of a call, by name."
    )
    chunk_items: int | None = Field(
        default=None,
        ge=1,
        title="Items in a chunk",
        description="Items of one Ray task. None: by what they are measured to cost.",
    )
    format: Literal["parquet", "jsonl"] = Field(
        default="parquet",
        title="Format of the results",
        description="parquet: any value, in columns where it has a plain type. jsonl: values that JSON has.",
    )

    def failures_allowed(self, items: int) -> int | None:
        """Return how many of ``items`` may fail; None if no number of failures ends the run before its end."""
        if self.max_failures is None:
            return None
        if self.max_failures.isdigit():
            return int(self.max_failures)
        number = float(self.max_failures.rstrip("%"))
        return int(items * number / (100 if self.max_failures.endswith("%") else 1))

    def what_makes_results(self) -> dict[str, Any]:
        """Return the options that the results depend on; a run that differs only in the others continues."""
        return self.model_dump(include={"arguments", "batch_size", "format"})
