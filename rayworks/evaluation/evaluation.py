"""Evaluate a candidate beside a naive baseline and the champion, on the same hold-out rows.

Models predict raw rows, as they do when served. Each Ray task scores some rows and returns the target, the predictions
and the slice columns, which must fit the coordinator's memory: about 50 bytes per row for a regression with a few
slices, so ten million hold-out rows take half a gigabyte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import polars as pl

from rayworks import code_digest, metrics, parallel, reuse, storage
from rayworks.data import features, manifest, split_rows
from rayworks.data.validation import POLARS_TYPES
from rayworks.errors import DataError, ParameterError, RegistryError, StorageError, TrainingError
from rayworks.evaluation import baseline, plots
from rayworks.models import stored
from rayworks.models.tabular import TabularModel
from rayworks.params import EvaluateOptions
from rayworks.progress import Progress
from rayworks.records import Dataset, DatasetRef, Evaluation, Metrics, ModelVersion, SliceMetrics, Target
from rayworks.reuse import Stage

SLICE_VALUES_AT_MOST = 20  # of a column that is sliced by default
SLICE_VALUES_SHOWN = 50
ROWS_PER_TASK = 50_000


@dataclass(frozen=True)
class Scores:
    """Hold-out rows and the predictions of each model: values (rows), or probabilities (rows by classes)."""

    slices: pl.DataFrame
    actual: np.ndarray
    candidate: np.ndarray
    champion: np.ndarray | None
    champion_error: str = ""


def fingerprint(
    candidate: ModelVersion, dataset: DatasetRef, champion: ModelVersion | None, options: EvaluateOptions
) -> str:
    """Return text that changes whenever the evaluation would: with the models, the data, the options or the code.

    Models count by their fingerprints: every registry has a version 1.
    """
    models = (candidate.fingerprint, champion.fingerprint if champion else None)
    code = code_digest.of_library("data", "models", "evaluation")
    return reuse.digest(code, models, dataset.fingerprint, options.model_dump_json())


def stage(
    candidate: ModelVersion,
    dataset: DatasetRef,
    *,
    champion: ModelVersion | None,
    options: EvaluateOptions,
    storage_uri: str,
    tracking_uri: str,
) -> Stage[Evaluation]:
    """Return the stage that scores candidate, baseline and champion on the test split, overall and by slice.

    A stored evaluation whose champion could not be scored is not found: the reason may have been an outage.

    Its ``create`` raises:
        ParameterError: An unknown slice column, or a metric that does not fit the problem.
        RegistryError: The candidate or the champion cannot be loaded: an outage of the registry must not weaken the
            gate. A champion that cannot be compared (another target, other columns) is no error: ``champion_error``
            says why.
        TrainingError: The candidate's predictions are not finite numbers.
    """
    key = fingerprint(candidate, dataset, champion, options)
    uri = reuse.location(storage_uri, "evaluations", dataset.name, key) + ".json"
    champion_uri = champion.uri if champion else None

    def find() -> Evaluation | None:
        stored = reuse.find_record(uri, Evaluation)
        if stored is None or stored.champion_error:
            return None
        # Another registry may know the same models as other versions.
        return stored.model_copy(update={"candidate_uri": candidate.uri, "champion_uri": champion_uri})

    def create(progress: Progress) -> Evaluation:
        evaluation = _evaluate(candidate.uri, dataset, champion_uri, options, uri, tracking_uri, progress)
        storage.write_record(uri, evaluation)
        return evaluation

    return Stage(find, create)


def _evaluate(
    candidate_uri: str,
    dataset: DatasetRef,
    champion_uri: str | None,
    options: EvaluateOptions,
    uri: str,
    tracking_uri: str,
    progress: Progress,
) -> Evaluation:
    data = manifest.load(dataset)
    metric = metrics.deciding_metric(dataset.problem, options.metric)
    columns = slice_columns(data, options.slices)
    candidate = stored.load(candidate_uri, tracking_uri=tracking_uri)
    champion, error = _load_champion(champion_uri, data.target, tracking_uri)
    scores = _score(data, candidate, champion, columns, progress)
    models = {"candidate": scores.candidate} | ({} if scores.champion is None else {"champion": scores.champion})
    predictions = models | {"baseline": baseline.predictions(data, len(scores.actual))}
    overall = _measure(data.target, scores.actual, predictions)
    require_defined(metric, overall["candidate"])
    return Evaluation(
        uri=uri,
        metric=metric,
        dataset_uri=data.uri,
        candidate_uri=candidate_uri,
        champion_uri=champion_uri,
        candidate=overall["candidate"],
        baseline=overall["baseline"],
        champion=overall.get("champion"),
        champion_error=error or scores.champion_error,
        slices=tuple(_slices(data.target, scores, predictions, options)),
        plots=(*plots.plots(data.target, scores.actual, models), *plots.importance(candidate.importance())),
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


def _load_champion(uri: str | None, target: Target, tracking_uri: str) -> tuple[TabularModel | None, str]:
    """Return the champion, or why it cannot be compared."""
    if uri is None:
        return None, ""
    champion = stored.load(uri, tracking_uri=tracking_uri)
    if champion.target != target:
        other = f"{champion.target.name} ({champion.target.problem}, classes {list(champion.target.classes)})"
        return None, f"The champion predicts another target: {other}."
    return champion, ""


def slice_columns(dataset: Dataset, chosen: Sequence[str] | None) -> list[str]:
    """Return the columns to slice by: the chosen ones, or the categorical and boolean ones with few values.

    Raises:
        ParameterError: A chosen column does not exist, or is ignored.
    """
    known = {column.name: column for column in dataset.feature_set.columns}
    if chosen is not None:
        if unknown := [name for name in chosen if name not in known]:
            raise ParameterError(
                "cannot slice by an unknown column",
                where=", ".join(unknown),
                detail=f"columns: {', '.join(known)}",
                remedy="Choose columns that the dataset uses",
            )
        return list(chosen)
    few = {s.name for s in dataset.split("train").statistics if 2 <= len(s.values) <= SLICE_VALUES_AT_MOST}
    return [name for name, column in known.items() if name in few or column.kind == "boolean"]


def _score(
    dataset: Dataset, candidate: TabularModel, champion: TabularModel | None, columns: list[str], progress: Progress
) -> Scores:
    """Score all test rows with both models, in Ray tasks."""
    total = dataset.split("test").rows
    shards = -(-total // ROWS_PER_TASK)

    def score(rank: int) -> tuple[int, Scores]:
        return rank, score_shard(dataset, candidate, champion, columns, rank, shards)

    parts: dict[int, Scores] = {}
    for rank, part in parallel.map_unordered(score, range(shards)):
        parts[rank] = part
        done = len(parts)
        progress(done / shards, f"scored {total * done // shards:,} of {total:,} hold-out rows")
    return _joined([parts[rank] for rank in range(shards)])


def _joined(parts: Sequence[Scores]) -> Scores:
    """Join the parts. A champion that failed on some rows is not compared on the others."""
    champion = [part.champion for part in parts if part.champion is not None]
    return Scores(
        slices=pl.concat([part.slices for part in parts]),
        actual=np.concatenate([part.actual for part in parts]),
        candidate=np.concatenate([part.candidate for part in parts]),
        champion=np.concatenate(champion) if len(champion) == len(parts) else None,
        champion_error=next((part.champion_error for part in parts if part.champion_error), ""),
    )


def score_shard(
    dataset: Dataset,
    candidate: TabularModel,
    champion: TabularModel | None,
    columns: list[str],
    rank: int,
    world_size: int,
) -> Scores:
    """Score the shard of one task, read a row group at a time.

    Raises:
        TrainingError: The candidate's predictions are not finite numbers.
    """

    def scores() -> Iterator[Scores]:
        names = [*(column.name for column in dataset.feature_set.columns), dataset.target.name]
        for rows in split_rows.frames(dataset, "test", names, rank=rank, world_size=world_size):
            actual = features.encode_target(rows[dataset.target.name], dataset.target)
            champion_scores, error = _score_champion(champion, rows)
            yield Scores(rows.select(columns), actual, _finite(candidate.score(rows)), champion_scores, error)

    return _joined(list(scores()))


def _finite(predicted: np.ndarray) -> np.ndarray:
    if not np.isfinite(predicted).all():
        raise TrainingError(
            "the model's predictions are not finite numbers",
            detail=f"{(~np.isfinite(predicted)).sum():,} NaN or infinite values",
            remedy="Fix the training loop or its hyperparameters: the learning rate may be too high",
        )
    return predicted


def _score_champion(champion: TabularModel | None, rows: pl.DataFrame) -> tuple[np.ndarray | None, str]:
    """Return the champion's predictions for rows of the current dataset, or why there are none."""
    if champion is None:
        return None, ""
    try:
        return _finite(champion.score(_as_trained(rows, champion))), ""
    except (RegistryError, StorageError, ConnectionError, TimeoutError):  # an outage says nothing about the champion
        raise
    except Exception as error:  # user code may raise anything; the candidate is evaluated anyway
        return None, f"The champion cannot score these rows: {type(error).__name__}: {error}"


def _as_trained(rows: pl.DataFrame, model: TabularModel) -> pl.DataFrame:
    """Return the rows with the columns and types that ``model`` was trained on.

    Raises:
        DataError: A column no longer exists. With nulls instead, the model would not be judged fairly.
    """
    declared = model.feature_set.columns
    if absent := [column.name for column in declared if column.name not in rows.columns]:
        raise DataError("the dataset has no such column", where=", ".join(absent), remedy="Promote a model without it")
    return rows.select(pl.col(column.name).cast(POLARS_TYPES[column.dtype]) for column in declared)


def _measure(target: Target, actual: np.ndarray, predictions: plots.Predictions) -> dict[str, Metrics]:
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
                in_slice = {name: predicted[chosen] for name, predicted in predictions.items()}
                measured = _measure(target, scores.actual[chosen], in_slice)
                yield SliceMetrics(
                    column=column.name,
                    value=value,
                    candidate=measured["candidate"],
                    baseline=measured["baseline"],
                    champion=measured.get("champion"),
                )


def slice_values(values: pl.Series) -> pl.Series:
    """Return the slice of each row, as text: its value, the quartile of many different numbers, or 'missing'."""
    temporal = values.dtype.is_temporal()
    if (values.dtype.is_numeric() or temporal) and values.n_unique() > SLICE_VALUES_AT_MOST:
        values = _quartiles(values, temporal=temporal)
    return values.cast(pl.String).fill_null("missing")


def _quartiles(values: pl.Series, *, temporal: bool) -> pl.Series:
    """Return the range of each value, from one quartile (exclusive, except the lowest) to the next: '12 to 47'."""
    numbers = values.to_physical().cast(pl.Float64) if temporal else values.cast(pl.Float64)
    edges = np.unique(np.quantile(numbers.drop_nulls().to_numpy(), [0, 0.25, 0.5, 0.75, 1]))
    names = _dates(edges) if temporal else [f"{edge:.6g}" for edge in edges]
    ranges = [f"{low} to {high}" for low, high in pairwise(names)]
    quartiles = np.searchsorted(edges[1:-1], numbers.fill_null(0).to_numpy())
    is_null = values.is_null()
    return pl.Series([None if null else ranges[index] for index, null in zip(quartiles, is_null, strict=True)])


def _dates(microseconds: np.ndarray) -> list[str]:
    """Return times since 1970 as days, with the time of day if days alone are not distinct."""
    times = [f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M}" for time in microseconds]
    days = [time[:10] for time in times]
    return days if len(set(days)) == len(days) else times
