"""The page of a comparison of new rows with those that the champion learned from, its table, and lines for a terminal.

Pure. Everything is made of a ``DriftReport``.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from rayworks import __version__
from rayworks.metrics import METRICS
from rayworks.monitoring.drift_report import ColumnDrift, DriftReport
from rayworks.reporting import figures
from rayworks.reporting.charts import number
from rayworks.reporting.figures import Figure
from rayworks.reporting.report import Row, environment

COLUMNS_DRAWN = 12
REASONS_SHOWN = 3


def html(report: DriftReport, links: dict[str, str]) -> str:
    """Return the whole page. ``links`` are URIs by name."""
    return (
        environment()
        .get_template("drift.html.j2")
        .render(
            report=report,
            links=links,
            verdict=verdict(report),
            tone="plain" if report.rows_kept < report.minimum_rows else "bad" if report.drifted else "good",
            tiles=_tiles(report),
            columns=column_rows(report.columns),
            prediction=_drawn([report.prediction], "predictions"),
            drawn=_drawn(report.columns[:COLUMNS_DRAWN]),
            errors=error_rows(report),
            interval=interval(report),
            rayworks=__version__,
        )
    )


def verdict(report: DriftReport) -> str:
    """Return the result in one line."""
    if report.drifted:
        return "The data have drifted" if _drifted(report) or report.prediction.drifted else "The model became worse"
    if report.rows_kept < report.minimum_rows:
        return f"{report.rows_kept:,} rows are too few to tell: {report.minimum_rows:,} are needed"
    return "The new rows are like those that the model learned from"


def _drifted(report: DriftReport) -> int:
    return sum(column.drifted is not None for column in report.columns)


def _tiles(report: DriftReport) -> list[dict[str, str]]:
    rows = {"name": "rows", "value": f"{report.rows_kept:,}", "detail": f"{report.rows_rejected:,} rejected"}
    columns = {
        "name": "columns that drifted",
        "value": f"{_drifted(report)} of {len(report.columns)}",
        "detail": f"{len(report.left_out)} are left out",
    }
    return [rows, columns, _error_tile(report)]


def _error_tile(report: DriftReport) -> dict[str, str]:
    if (error := report.error) is None:
        return {"name": "error", "value": "—", "detail": f"fewer than {report.minimum_rows:,} rows have a label"}
    now, before = error.now.values.get(error.metric), error.before.values.get(error.metric)
    label = METRICS[error.metric].label
    return {"name": label, "value": number(now), "detail": f"{number(before)} on hold-out rows"}


def column_rows(columns: Sequence[ColumnDrift]) -> list[Row]:
    """Return a row per column, the farthest past its threshold first."""

    def missing(statistics: Any) -> str:
        return f"{statistics.missing / max(statistics.rows, 1):.1%}"

    return [
        {
            "column": column.before.name,
            "drifted": column.drifted or "no",
            "distance": column.distance,
            "threshold": column.threshold,
            "shift of the mean": column.shift,
            "its threshold": column.shift_threshold if column.shift is not None else None,
            "missing before": missing(column.before),
            "missing now": missing(column.now),
        }
        for column in columns
    ]


def error_rows(report: DriftReport) -> list[Row]:
    """Return a row per metric, the deciding one first; none where too few labels have come."""
    if (error := report.error) is None:
        return []
    names = sorted(error.now.values, key=lambda name: name != error.metric)
    return [
        {"metric": METRICS[name].label, "hold-out rows": error.before.values.get(name), "new rows": value}
        for name, value in ((name, error.now.values[name]) for name in names)
    ]


def _drawn(columns: Sequence[ColumnDrift], title: str | None = None) -> list[Figure]:
    found = [figures.compared(title or c.before.name, {"known": c.before, "new": c.now}) for c in columns]
    return [figure for figure in found if figure]


def interval(report: DriftReport) -> str:
    """Return by how much the deciding metric changed, in words; an empty text where too few labels have come."""
    if report.error is None:
        return ""
    label = METRICS[report.error.metric].label
    if report.error.interval is None:
        return f"Too few rows, times or keys tell whether the change of {label} is chance."
    low, high, confidence = report.error.interval.low, report.error.interval.high, report.error.interval.confidence
    if low <= 0 <= high:
        return f"The change of {label} may be chance: its {confidence:.0%} interval is {-high:+.3g} to {-low:+.3g}."
    word = "better" if low > 0 else "worse"
    near, far = sorted((abs(low), abs(high)))
    return f"{label} is {word} by {near:.3g} to {far:.3g} ({confidence:.0%} interval)."


def summary(report: DriftReport, links: dict[str, str]) -> list[tuple[str, str]]:
    """Return the label and text of each line for a terminal."""
    rows = f"{report.rows_in:,} in {report.files:,} files, {report.rows_kept:,} kept, {report.rows_rejected:,} rejected"
    lines = [("model", report.model.uri), ("rows", rows)]
    lines += [("rejected", f"{count:,}: {why}") for why, count in islice(report.reasons.items(), REASONS_SHOWN)]
    lines.append(("verdict", verdict(report)))
    lines += [("reason", reason) for reason in report.why]
    lines += [("error", text) for text in (interval(report),) if text]
    if report.left_out:
        lines.append(("left out", ", ".join(f"{name} ({why})" for name, why in report.left_out.items())))
    return [*lines, *links.items()]
