"""Compare new rows with those that the champion learned from: by column, by prediction, by error where labels came.

Only the new rows are read, and some hold-out rows: the dataset keeps the statistics of the others. Each Ray task reads
a chunk by the dataset's rules, counts it with the dataset's edges, and lets the champion predict it.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from rayworks import code_digest, metrics, parallel, reuse, storage
from rayworks.data import manifest, planning, reading
from rayworks.data.reading import DataFile
from rayworks.data.splitting import BLOCK_ROWS, BLOCKS
from rayworks.data.statistics import Statistics, edges_of
from rayworks.errors import RegistryError
from rayworks.evaluation import comparison, evidently_page, new_rows, registry
from rayworks.evaluation.new_rows import PREDICTION, NewRows, Outcomes
from rayworks.extras import require_evidently
from rayworks.models import stored
from rayworks.monitoring import drift
from rayworks.monitoring.drift_report import ColumnDrift, DriftReport, ErrorChange
from rayworks.monitoring.options import MonitorOptions
from rayworks.progress import Progress
from rayworks.records import ColumnStatistics, Dataset, Metrics, ModelVersion, TimeBlocks
from rayworks.reuse import Stage

CONFIDENCE = 0.95
WORSE_AT_LEAST = 0.05
"""Share of the metric by which it must be worse, beside being worse by more than chance."""
REASONS_SHOWN = 5


def stage(
    name: str,
    source: str,
    options: MonitorOptions,
    *,
    storage_uri: str,
    tracking_uri: str,
    only: Sequence[str] | None = None,
) -> Stage[DriftReport]:
    """Return the stage that compares the rows at ``source`` with those that the champion of a model learned from.

    Args:
        name: The registered model.
        source: File, folder or glob of new rows.
        only: The URIs of the files to read of those at ``source``. None: all.

    Raises:
        MissingExtraError: Evidently's page is asked for, and Evidently is not installed.
        RegistryError: The model has no champion, or its training is not known.
        StorageError, DataError: There are no files at ``source``.

    Its ``create`` raises:
        DataError: The files have none of the model's columns, or no valid row, or one changed while it was read.
        RegistryError: The champion cannot be loaded.
    """
    if options.evidently_rows is not None:
        require_evidently()
    champion = registry.champion(name, tracking_uri=tracking_uri)
    if champion is None:
        remedy = "Promote a version first: the flows pipeline and promote do so"
        raise RegistryError("the model has no champion to monitor", where=name, remedy=remedy)
    place = reading.resolve(source, storage_uri)
    files = reading.of_all([place], options.format, only)
    code = code_digest.of_library("data", "models", "monitoring", "evaluation")
    facts = [file.source.model_dump_json() for file in files]
    key = reuse.digest(code, champion.fingerprint, facts, options.model_dump_json())
    uri = reuse.location(storage_uri, "drift", name, key) + ".json"

    def find() -> DriftReport | None:
        report = reuse.find_record(uri, DriftReport)
        # Another registry may know the same model as another version.
        return report.model_copy(update={"model": champion, "source": source}) if report else None

    def create(progress: Progress) -> DriftReport:
        report = _compare(champion, source, files, options, uri, tracking_uri, progress)
        if options.evidently_rows is not None:
            progress(1.0, "Evidently compares a sample")
            page_uri = f"{uri.removesuffix('.json')}.evidently.html"
            chunks = reading.chunks(files, options.encoding)
            evidently_page.write(page_uri, report, chunks, options.evidently_rows)
            report = report.model_copy(update={"evidently_uri": page_uri})
        reading.check_unchanged([file.source for file in files], [place])
        storage.write_record(uri, report)
        return report

    return Stage(find, create)


def _compare(
    champion: ModelVersion,
    source: str,
    files: list[DataFile],
    options: MonitorOptions,
    uri: str,
    tracking_uri: str,
    progress: Progress,
) -> DriftReport:
    dataset = manifest.load(registry.dataset_of(champion, tracking_uri=tracking_uri))
    metric = metrics.deciding_metric(dataset.target.problem, options.metric)
    model = stored.load(champion.uri, tracking_uri=tracking_uri)
    progress(0.0, "predicting hold-out rows")
    ((known, before),) = parallel.map_unordered(lambda _: new_rows.hold_out(dataset, model), [0])
    of_train = dataset.split("train").statistics
    edges = {column.name: column.edges for column in of_train if column.edges} | edges_of(known)
    chunks, counts = reading.chunks(files, options.encoding), new_rows.none_yet(edges)
    parts = parallel.map_unordered(lambda chunk: new_rows.count(chunk, dataset, model, edges), chunks)
    for done, part in enumerate(parts, start=1):
        counts.merge(part)
        progress(done / len(chunks), f"{done} of {len(chunks)} chunks, {counts.rows_in:,} rows")
    statistics, has_labels = _as_trained(counts, dataset)
    if not statistics.rows:
        raise planning.no_valid_rows(counts.reasons, counts.rows_in, source)
    columns, left_out = _columns(dataset, statistics, has_labels=has_labels)
    prediction = _prediction(known, before, statistics, dataset)
    if statistics.rows < options.minimum_rows:
        columns = tuple(column.model_copy(update={"drifted": None}) for column in columns)
        prediction = prediction.model_copy(update={"drifted": None})
    error = _error(metric, dataset, before, counts.outcomes, options.minimum_rows)
    why = in_words(columns, prediction, error)
    return DriftReport(
        uri=uri,
        model=champion,
        dataset_uri=dataset.uri,
        source=source,
        files=len(files),
        rows_in=counts.rows_in,
        rows_kept=statistics.rows,
        rows_rejected=counts.rows_in - statistics.rows,
        reasons=dict(counts.reasons.most_common()),
        minimum_rows=options.minimum_rows,
        columns=columns,
        left_out=left_out,
        prediction=prediction,
        error=error,
        drifted=bool(why),
        why=why,
    )


def _as_trained(counts: NewRows, dataset: Dataset) -> tuple[Statistics, bool]:
    """The statistics of the rows to compare, and whether these have labels.

    Training rejects rows without a target. Where labels have come, so that most rows have one, the others are rejected
    here as well: what has no target is often of another kind, such as a flight that was cancelled.
    """
    if 2 * counts.labelled.rows >= counts.kept:
        if counts.unlabelled.rows:
            counts.reasons[f"the target {dataset.target.name} is missing"] += counts.unlabelled.rows
        return counts.labelled, True
    counts.unlabelled.merge(counts.labelled)
    return counts.unlabelled, False


def _columns(dataset: Dataset, new: Statistics, *, has_labels: bool) -> tuple[tuple[ColumnDrift, ...], dict[str, str]]:
    """Compare the columns with those of the training rows. Also return those that are left out, with the reasons."""
    train, blocks = dataset.split("train").statistics, manifest.load_blocks(dataset)
    left_out = drift.left_out(dataset.feature_set, train, blocks)
    if not has_labels:
        left_out[dataset.target.name] = "most rows have no label yet"
    return _beside([column for column in train if column.name not in left_out], new, blocks), left_out


def _beside(
    reference: Sequence[ColumnStatistics], new: Statistics, blocks: TimeBlocks | None
) -> tuple[ColumnDrift, ...]:
    current = [new.of_column(column.name, column.kind, column.values) for column in reference]
    return drift.compare(reference, current, drift.thresholds(reference, blocks))


def _prediction(known: pl.DataFrame, before: Outcomes, new: Statistics, dataset: Dataset) -> ColumnDrift:
    """Compare predictions with those for hold-out rows, by what blocks of these differ where they are in the order of
    time."""
    whole = Statistics(new.edges)
    whole.add(known)
    kind = "categorical" if dataset.target.problem == "multiclass" else "numeric"
    reference = whole.of_column(PREDICTION, kind)
    number = min(BLOCKS, len(known) // BLOCK_ROWS)
    blocks = None
    if dataset.split_method == "time" and before.split_values is not None and number > 1:
        firsts = np.arange(number) * len(known) // number
        parts = [Statistics(new.edges) for _ in firsts]
        for part, first, last in zip(parts, firsts, [*firsts[1:], len(known)], strict=True):
            part.add(known[int(first) : int(last)])
        starts = pl.Series(before.split_values[firsts]).cast(pl.Datetime("us")).to_list()
        blocks = TimeBlocks(
            starts=tuple(starts), blocks=tuple((part.of_column(PREDICTION, kind, reference.values),) for part in parts)
        )
    (found,) = _beside([reference], new, blocks)
    return found


def _error(
    name: str, dataset: Dataset, before: Outcomes, parts: Sequence[Outcomes], minimum_rows: int
) -> ErrorChange | None:
    """Compare the metric on new rows with that on hold-out rows; None where too few have a label."""
    if sum(len(part.actual) for part in parts) < max(minimum_rows, 2):
        return None
    values = [part.split_values for part in parts if part.split_values is not None]
    now = Outcomes(
        np.concatenate([part.actual for part in parts]),
        np.concatenate([part.predicted for part in parts]),
        np.concatenate(values) if values else None,
    )
    metric = metrics.METRICS[name]
    interval = comparison.change(metric, _scored(dataset, before), _scored(dataset, now), confidence=CONFIDENCE)
    measured = [
        Metrics(rows=len(rows.actual), values=metrics.compute(dataset.target, rows.actual, rows.predicted))
        for rows in (before, now)
    ]
    gain = metric.gain(measured[1].values.get(name, np.nan), measured[0].values.get(name, np.nan))
    is_worse = interval is not None and interval.high < 0 and gain < -WORSE_AT_LEAST
    return ErrorChange(metric=name, before=measured[0], now=measured[1], interval=interval, worse=is_worse)


def _scored(dataset: Dataset, rows: Outcomes) -> comparison.Scored:
    groups = comparison.groups_of(dataset.split_method, rows.split_values, len(rows.actual))
    return comparison.Scored(rows.actual, rows.predicted, groups)


def in_words(columns: Sequence[ColumnDrift], prediction: ColumnDrift, error: ErrorChange | None) -> tuple[str, ...]:
    """Return what has drifted, a sentence each, the worst first."""
    reasons: list[str] = []
    if error and error.worse:
        metric = metrics.METRICS[error.metric]
        now, before = error.now.values[error.metric], error.before.values[error.metric]
        reasons.append(f"{metric.label} is {now:.4g} instead of {before:.4g}, on {error.now.rows:,} rows with a label")
    if prediction.drifted:
        reasons.append(f"the prediction {_how_far(prediction)}")
    drifted = [column for column in columns if column.drifted]
    reasons += [f"{column.before.name} {_how_far(column)}" for column in drifted[:REASONS_SHOWN]]
    if more := drifted[REASONS_SHOWN:]:
        reasons.append(f"{len(more)} more: {', '.join(column.before.name for column in more)}")
    return tuple(reasons)


def _how_far(column: ColumnDrift) -> str:
    match column.drifted:
        case "missing":
            now, before = (each.missing / each.rows for each in (column.now, column.before))
            return f"has no value in {now:.1%} of the rows instead of {before:.1%}"
        case "shift":
            usual = f"and {column.shift_threshold:.2f} is usual at most"
            return f"moved by {column.shift:+.2f} deviations on average, {usual}"
        case _:
            return f"has a distance of {column.distance:.2f}, and {column.threshold:.2f} is usual at most"
