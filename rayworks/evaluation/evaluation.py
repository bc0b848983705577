"""A candidate beside a naive baseline and the champion, on the same hold-out rows.

Models are asked for raw rows, as they will be when served. Ray tasks score some rows each; what comes back, and must
fit the coordinator's memory, is the target, the predictions and the slice columns: some 50 bytes a row for a regression
with a few slices, so ten million hold-out rows take half a gigabyte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import polars as pl

from rayworks import __version__, metrics, reuse, storage
from rayworks.data import features, manifest, split_rows
from rayworks.data.validation import POLARS_TYPES
from rayworks.errors import DataError, ParameterError, TrainingError
from rayworks.evaluation import plots
from rayworks.models import tabular
from rayworks.models.tabular import TabularModel
from rayworks.params import EvaluateOptions
from rayworks.progress import Progress
from rayworks.ray_error import cause
from rayworks.records import Dataset, DatasetRef, Evaluation, Metrics, SliceMetrics, Target
from rayworks.reuse import Stage

SLICE_VALUES_AT_MOST = 20  # of a column that is sliced by without being asked
SLICE_VALUES_SHOWN = 50
ROWS_PER_TASK = 50_000


@dataclass(frozen=True)
class Scores:
    """Hold-out rows with what each model says of them: amounts (rows), or probabilities (rows by classes)."""

    slices: pl.DataFrame
    actual: np.ndarray
    candidate: np.ndarray
    champion: np.ndarray | None
    champion_error: str = ""


def fingerprint(candidate_uri: str, dataset: DatasetRef, champion_uri: str | None, options: EvaluateOptions) -> str:
    """A text that changes whenever the evaluation would: by the models, the data or the options."""
    return reuse.digest(__version__, candidate_uri, dataset.fingerprint, champion_uri, options.model_dump_json())


def stage(
    candidate_uri: str,
    dataset: DatasetRef,
    *,
    champion_uri: str | None,
    options: EvaluateOptions,
    storage_uri: str,
    tracking_uri: str,
) -> Stage[Evaluation]:
    """Return the stage that scores candidate, baseline and champion on the test split, overall and by slice.

    Its ``create`` raises:
        ParameterError: An unknown slice column, or a metric that does not fit the problem.
        RegistryError: The candidate or the champion cannot be loaded: an outage of the registry must not weaken the
            gate. A champion that cannot be compared (another target, other columns) is no error: ``champion_error``
            says why.
        TrainingError: The candidate's predictions are not finite numbers.
    """
    key = fingerprint(candidate_uri, dataset, champion_uri, options)
    uri = reuse.location(storage_uri, "evaluations", dataset.name, key) + ".json"

    def create(progress: Progress) -> Evaluation:
        evaluation = _evaluate(candidate_uri, dataset, champion_uri, options, uri, tracking_uri, progress)
        storage.write_record(uri, evaluation)
        return evaluation

    return Stage(partial(reuse.find_record, uri, Evaluation), create)


def _evaluate(
    candidate_uri: str,
    dataset: DatasetRef,
    champion_uri: str | None,
    options: EvaluateOptions,
    uri: str,
    tracking_uri: str,
    progress: Progress,
) -> Evaluation:
    whole = manifest.load(dataset)
    metric = metrics.deciding_metric(dataset.problem, options.metric)
    columns = slice_columns(whole, options.slices)
    candidate = tabular.load(candidate_uri, tracking_uri=tracking_uri)
    champion, error = _champion(champion_uri, whole.target, tracking_uri)
    scores = _score(whole, candidate, champion, columns, progress)
    models = {"candidate": scores.candidate} | ({} if scores.champion is None else {"champion": scores.champion})
    predictions = models | {"baseline": metrics.baseline(whole, len(scores.actual))}
    overall = _metrics(whole.target, scores.actual, predictions)
    require_defined(metric, overall["candidate"])
    return Evaluation(
        uri=uri,
        metric=metric,
        dataset_uri=whole.uri,
        candidate_uri=candidate_uri,
        champion_uri=champion_uri,
        candidate=overall["candidate"],
        baseline=overall["baseline"],
        champion=overall.get("champion"),
        champion_error=error or scores.champion_error,
        slices=tuple(_slices(whole.target, scores, predictions, options)),
        plots=(*plots.plots(whole.target, scores.actual, models), *plots.importance(candidate.importance())),
    )


def require_defined(metric: str, measured: Metrics) -> None:
    """Check that the deciding metric has a value.

    Raises:
        ParameterError: It is not defined on these rows, as ROC AUC where all rows have one class.
    """
    if metric not in measured.values:
        raise ParameterError(
            f"the metric {metric} is not defined on the hold-out rows",
            where="evaluate.metric",
            detail=f"defined on these {measured.rows:,} rows: {', '.join(measured.values)}",
            remedy="Choose another metric, or hold out more rows",
        )


def _champion(uri: str | None, target: Target, tracking_uri: str) -> tuple[TabularModel | None, str]:
    """The champion, or why it cannot be compared."""
    if uri is None:
        return None, ""
    champion = tabular.load(uri, tracking_uri=tracking_uri)
    if champion.target != target:
        other = f"{champion.target.name} ({champion.target.problem}, classes {list(champion.target.classes)})"
        return None, f"The champion predicts another target: {other}."
    return champion, ""


def slice_columns(dataset: Dataset, chosen: Sequence[str] | None) -> list[str]:
    """The columns to slice by: as chosen, or the categorical and boolean ones with few values.

    Raises:
        ParameterError: A chosen column is not among those in use.
    """
    known = {column.name: column for column in dataset.feature_set.columns}
    if chosen is not None:
        if unknown := [name for name in chosen if name not in known]:
            raise ParameterError(
                "cannot slice by a column that is not there",
                where=", ".join(unknown),
                detail=f"columns: {', '.join(known)}",
                remedy="Choose among the columns of the data that are in use",
            )
        return list(chosen)
    few = {s.name for s in dataset.split("train").statistics if 2 <= len(s.values) <= SLICE_VALUES_AT_MOST}
    return [name for name, column in known.items() if name in few or column.kind == "boolean"]


def _score(
    dataset: Dataset, candidate: TabularModel, champion: TabularModel | None, columns: list[str], progress: Progress
) -> Scores:
    """Ask both models for all test rows, in Ray tasks of some rows each; Ray retries those whose worker is lost."""
    import ray
    from ray.exceptions import RayError

    total = dataset.split("test").rows
    tasks = -(-total // ROWS_PER_TASK)
    score = cast(Any, ray.remote(num_cpus=1)(score_share))
    shared = cast(Any, ray).put((dataset, candidate, champion, columns))
    waiting = [score.remote(shared, rank, tasks) for rank in range(tasks)]
    parts: list[Scores] = []
    try:
        for done, task in enumerate(waiting, start=1):
            parts.append(cast(Any, ray.get(task)))
            progress(done / tasks, f"scored {total * done // tasks:,} of {total:,} hold-out rows")
    except RayError as error:
        raise cause(error) from error
    return _joined(parts)


def _joined(parts: Sequence[Scores]) -> Scores:
    """The parts in one. A champion that failed on some rows is not compared on the others."""
    theirs = [part.champion for part in parts if part.champion is not None]
    return Scores(
        slices=pl.concat([part.slices for part in parts]),
        actual=np.concatenate([part.actual for part in parts]),
        candidate=np.concatenate([part.candidate for part in parts]),
        champion=np.concatenate(theirs) if len(theirs) == len(parts) else None,
        champion_error=next((part.champion_error for part in parts if part.champion_error), ""),
    )


def score_share(
    shared: tuple[Dataset, TabularModel, TabularModel | None, list[str]], rank: int, world_size: int
) -> Scores:
    """What one task does: read its share of the test rows, a row group at a time, and ask the models.

    Raises:
        TrainingError: The candidate predicts what is no number.
    """
    dataset, candidate, champion, columns = shared

    def each() -> Iterator[Scores]:
        wanted = [*(column.name for column in dataset.feature_set.columns), dataset.target.name]
        for rows in split_rows.frames(dataset, "test", wanted, rank=rank, world_size=world_size):
            actual = features.encode_target(rows[dataset.target.name], dataset.target)
            theirs, error = _asked_champion(champion, rows)
            yield Scores(rows.select(columns), actual, _numbers(candidate.score(rows)), theirs, error)

    return _joined(list(each()))


def _numbers(predicted: np.ndarray) -> np.ndarray:
    if not np.isfinite(predicted).all():
        raise TrainingError(
            "the model predicts what is no number",
            detail=f"{(~np.isfinite(predicted)).sum():,} NaN or infinite values",
            remedy="Mend the training loop, or its hyperparameters: a learning rate may be too high",
        )
    return predicted


def _asked_champion(champion: TabularModel | None, rows: pl.DataFrame) -> tuple[np.ndarray | None, str]:
    """What the champion says of rows in today's columns, or why it cannot."""
    if champion is None:
        return None, ""
    try:
        return _numbers(champion.score(_as_declared(rows, champion))), ""
    except Exception as error:  # whatever keeps the champion from answering is told; the candidate is judged anyway
        return None, f"The champion cannot score these rows: {type(error).__name__}: {error}"


def _as_declared(rows: pl.DataFrame, model: TabularModel) -> pl.DataFrame:
    """The rows in the columns and types that ``model`` was trained on.

    Raises:
        DataError: A column is not there any more. To call it missing would judge a model on what it was not made for.
    """
    declared = model.feature_set.columns
    if lacking := [column.name for column in declared if column.name not in rows.columns]:
        raise DataError(
            "the data have no such column", where=", ".join(lacking), remedy="Let the new champion replace it"
        )
    return rows.select(pl.col(column.name).cast(POLARS_TYPES[column.dtype]) for column in declared)


def _metrics(target: Target, actual: np.ndarray, predictions: plots.Predictions) -> dict[str, Metrics]:
    return {
        name: Metrics(rows=len(actual), values=metrics.compute(target, actual, predicted))
        for name, predicted in predictions.items()
    }


def _slices(
    target: Target, scores: Scores, predictions: plots.Predictions, options: EvaluateOptions
) -> Iterator[SliceMetrics]:
    for column in scores.slices.iter_columns():
        values = slice_values(column)
        for value, rows in values.value_counts(sort=True).head(SLICE_VALUES_SHOWN).iter_rows():
            if rows >= options.minimum_slice_rows:
                chosen = (values == value).to_numpy()
                of = _metrics(target, scores.actual[chosen], {name: p[chosen] for name, p in predictions.items()})
                yield SliceMetrics(
                    column=column.name,
                    value=value,
                    candidate=of["candidate"],
                    baseline=of["baseline"],
                    champion=of.get("champion"),
                )


def slice_values(values: pl.Series) -> pl.Series:
    """What each row counts under, as text: its value, for many different numbers the quartile, or 'missing'."""
    temporal = values.dtype.is_temporal()
    if (values.dtype.is_numeric() or temporal) and values.n_unique() > SLICE_VALUES_AT_MOST:
        values = _quartiles(values, temporal=temporal)
    return values.cast(pl.String).fill_null("missing")


def _quartiles(values: pl.Series, *, temporal: bool) -> pl.Series:
    """The range of each value, from one quartile (excluded, but the lowest) to the next: '12 to 47'."""
    numbers = values.to_physical().cast(pl.Float64) if temporal else values.cast(pl.Float64)
    edges = np.unique(np.quantile(numbers.drop_nulls().to_numpy(), [0, 0.25, 0.5, 0.75, 1]))
    names = _dates(edges) if temporal else [f"{edge:.6g}" for edge in edges]
    ranges = [f"{low} to {high}" for low, high in pairwise(names)]
    places = np.searchsorted(edges[1:-1], numbers.fill_null(0).to_numpy())
    return pl.Series([None if null else ranges[place] for place, null in zip(places, values.is_null(), strict=True)])


def _dates(microseconds: np.ndarray) -> list[str]:
    """The days of times since 1970, with the time of day where that tells them apart."""
    times = [f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M}" for time in microseconds]
    days = [time[:10] for time in times]
    return days if len(set(days)) == len(days) else times
