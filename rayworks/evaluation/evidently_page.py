"""Evidently's own page on a sample of the training rows and of the new ones, beside the page of rayworks.

It decides nothing. Rows are sampled and compared in Ray tasks: none of them passes through the coordinator's process
but the sample of the new rows, and Evidently is imported in a worker alone.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import polars as pl

from rayworks import parallel, storage
from rayworks.data import manifest, split_rows
from rayworks.data.reading import Chunk
from rayworks.errors import DataError
from rayworks.evaluation import _private, new_rows
from rayworks.monitoring.drift_report import DriftReport
from rayworks.records import ColumnStatistics


def write(uri: str, report: DriftReport, chunks: Sequence[Chunk], max_rows: int) -> None:
    """Compare samples of both sides by Evidently, in the columns that a report compares, and store its page.

    Args:
        uri: Of the page.
        report: Of the same rows. Where it has the target, rows without it are left out, as in training.
        chunks: Of the new rows. Few of them are read again, which lie evenly among them.
        max_rows: About how many rows of each side are compared at most.

    Raises:
        DataError: No row of the sample is valid.
        StorageError: The rows cannot be read, or the page cannot be written.
    """
    dataset, columns = manifest.load(report.dataset_uri), [column.before for column in report.columns]
    names = [column.name for column in columns]
    chosen = chunks[:: -(-len(chunks) // split_rows.SPREAD)]
    share = min(max_rows * len(chunks) / (len(chosen) * report.rows_in), 1.0)
    parts = parallel.map_unordered(lambda chunk: new_rows.sample(chunk, dataset, names, share), chosen)
    now = pl.concat([rows for part in parts for rows in part])
    if now.is_empty():
        remedy = "Ask for more rows in options.evidently_rows, or for none"
        raise DataError("no row of the sample for Evidently is valid", where=report.source, remedy=remedy)
    now = now.sample(min(max_rows, len(now)), seed=0)

    def compare(_: int) -> None:
        before = split_rows.spread(dataset, "train", names, max_rows)
        storage.write_bytes(uri, html(before, now, columns).encode())

    list(parallel.map_unordered(compare, [0]))


def html(before: pl.DataFrame, now: pl.DataFrame, columns: Sequence[ColumnStatistics]) -> str:
    """Return Evidently's page, which needs no network. It would fail on columns without a value on a side, so these
    are left out.

    Args:
        before: Training rows.
        now: New rows.
        columns: Those to compare, with their kinds.
    """
    evidently = _private.evidently()
    compared = [c for c in columns if all(rows[c.name].null_count() < len(rows) for rows in (before, now))]
    names: dict[str, list[str]] = {"numeric": [], "categorical": []}
    for column in compared:
        names["numeric" if column.kind == "numeric" else "categorical"].append(column.name)
    definition = evidently.DataDefinition(numerical_columns=names["numeric"], categorical_columns=names["categorical"])

    def dataset(rows: pl.DataFrame) -> Any:
        frame = rows.select(names["numeric"] + names["categorical"]).to_pandas()
        return evidently.Dataset.from_pandas(frame, data_definition=definition)

    report = evidently.Report([evidently.presets.DataDriftPreset()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SciPy, about tests of few rows, of which users would change nothing
        return report.run(dataset(now), dataset(before)).get_html_str(as_iframe=False)
