"""The records of a comparison of new rows with those that the champion learned from."""

from typing import Literal

from pydantic import Field

from rayworks.records import ColumnStatistics, Interval, Metrics, ModelVersion, Record

Past = Literal["distance", "missing", "shift"]


class ColumnDrift(Record):
    """How far new rows are from the training rows in one column."""

    before: ColumnStatistics
    now: ColumnStatistics
    distance: float = Field(description="Jensen-Shannon distance, from 0 to 1, without what is due to chance.")
    threshold: float = Field(description="What the training rows themselves vary by, and at least the floor.")
    missing: float = Field(description="The same distance of missing values alone.")
    missing_threshold: float
    shift: float | None = Field(description="Of the mean, in deviations of the training rows. None: there is none.")
    shift_threshold: float
    drifted: Past | None = Field(description="What is past its threshold most.")


class ErrorChange(Record):
    """The champion's metrics on hold-out rows, on which it was promoted, and on new rows with a label."""

    metric: str
    before: Metrics
    now: Metrics
    interval: Interval | None = Field(description="Of the improvement; negative where it became worse. None: unknown.")
    worse: bool


class DriftReport(Record):
    """What new rows are beside those that the champion learned from. Without enough rows, nothing has drifted."""

    uri: str = Field(description="Where this report is stored.")
    model: ModelVersion
    dataset_uri: str
    source: str
    files: int
    rows_in: int
    rows_kept: int
    rows_rejected: int
    reasons: dict[str, int] = Field(description="Number of rejected rows by reason.")
    minimum_rows: int
    columns: tuple[ColumnDrift, ...] = Field(description="The farthest past its threshold first.")
    left_out: dict[str, str] = Field(description="Columns that are not compared, each with the reason.")
    prediction: ColumnDrift = Field(description="The champion's predictions beside those for hold-out rows.")
    error: ErrorChange | None = Field(description="None where too few labels have come.")
    drifted: bool
    why: tuple[str, ...] = Field(description="What has drifted, a sentence each.")
    evidently_uri: str | None = Field(
        default=None, description="Evidently's page on a sample, where one was asked for."
    )


class DriftSummary(Record):
    """The result of a run that monitors a champion."""

    uri: str = Field(description="URI of the HTML page.")
    report_uri: str
    drifted: bool
    why: tuple[str, ...]
    summary: tuple[tuple[str, str], ...] = Field(description="Label and text of each line for a terminal.")
