"""Evaluate a candidate beside a naive baseline and the champion, on the same hold-out rows.

Models predict raw rows, as they do when served. Each Ray task scores some rows and returns the target, the predictions
and the slice columns, which must fit the coordinator's memory: about 50 bytes per row for a regression with a few
slices, so ten million hold-out rows take half a gigabyte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from rayworks import code_digest, metrics, parallel, reuse, storage
from rayworks.data import features, manifest, split_rows, splitting
from rayworks.data.validation import POLARS_TYPES
from rayworks.errors import DataError, ParameterError, RegistryError, StorageError, named
from rayworks.evaluation import baseline, comparison, plots, registry, slices
from rayworks.models import stored
from rayworks.models.predictions import finite
from rayworks.models.tabular import TabularModel
from rayworks.params import EvaluateOptions
from rayworks.progress import Progress
from rayworks.records import Dataset, DatasetRef, Evaluation, Metrics, ModelVersion, SliceMetrics, Target
from rayworks.reuse import Stage

ROWS_PER_TASK = 50_000


@dataclass(frozen=True)
class Scores:
    """Hold-out rows and the predictions of each model: values (rows), or probabilities (rows by classes).

    ``columns`` are those to slice by, and the one that the rows were split by.
    """

    columns: pl.DataFrame
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
        ParameterError: An unknown slice column, a metric that does not fit the problem, or a candidate that predicts
            another target than that of the dataset.
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
        evaluation = _evaluate(candidate, dataset, champion_uri, options, uri, tracking_uri, progress)
        storage.write_record(uri, evaluation)
        return evaluation

    return Stage(find, create)


def _evaluate(
    version: ModelVersion,
    dataset: DatasetRef,
    champion_uri: str | None,
    options: EvaluateOptions,
    uri: str,
    tracking_uri: str,
    progress: Progress,
) -> Evaluation:
    data = manifest.load(dataset)
    metric = metrics.deciding_metric(dataset.problem, options.metric)
    slice_by = slices.columns(data, options.slices)
    candidate = _load_candidate(version.uri, data.target, tracking_uri)
    champion, error = _load_champion(champion_uri, data.target, tracking_uri)
    split_by = [data.split_column] if data.split_column and data.split_column not in slice_by else []
    scores = _score(data, candidate, champion, [*slice_by, *split_by], progress)
    models = {"candidate": scores.candidate} | ({} if scores.champion is None else {"champion": scores.champion})
    predictions = models | {"baseline": baseline.predictions(data, len(scores.actual))}
    overall = _measure(data.target, scores.actual, predictions)
    require_defined(metric, overall["candidate"])
    values = split_rows.split_values(data, scores.columns)
    groups = comparison.groups_of(data.split_method, values, len(scores.actual))
    parts = slices.of(scores.columns.select(slice_by), options)
    rival = predictions.get("champion", predictions["baseline"])
    return Evaluation(
        uri=uri,
        metric=metric,
        dataset_uri=data.uri,
        candidate_uri=version.uri,
        champion_uri=champion_uri,
        candidate=overall["candidate"],
        baseline=overall["baseline"],
        champion=overall.get("champion"),
        champion_error=error or scores.champion_error,
        learned=_learned(version, data, tracking_uri),
        interval=comparison.interval(
            metrics.METRICS[metric], scores.actual, scores.candidate, rival, groups, confidence=options.confidence
        ),
        slices=tuple(_slices(data.target, metric, scores, predictions, groups, parts, options.confidence)),
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


def _learned(version: ModelVersion, dataset: Dataset, tracking_uri: str) -> str:
    """Return why a model may have learned from the test rows of ``dataset``; empty if it certainly has not."""
    tags = registry.tags_of(version, tracking_uri=tracking_uri)
    if tags.get(registry.DATASET_FINGERPRINT) == dataset.fingerprint:
        return ""
    uri = tags.get(registry.DATASET)
    other = registry.stored_dataset(tags)
    if other is None:
        reason = f"its dataset {uri} is no longer stored" if uri else "the registry does not say what it learned from"
    elif splitting.is_unseen(dataset, other):
        return ""
    else:
        files = "" if other.split_by != dataset.split_by else ", but they are from other files"
        reason = f"those of its own dataset {uri} were split {other.split_by}, these {dataset.split_by}{files}"
    return f"the candidate may have learned from some of the hold-out rows: {reason}"


def _load_candidate(uri: str, target: Target, tracking_uri: str) -> TabularModel:
    candidate = stored.load(uri, tracking_uri=tracking_uri)
    if candidate.target != target:
        raise ParameterError(
            "the model predicts another target than that of the dataset",
            where=uri,
            detail=f"{_in_words(candidate.target)}, not {_in_words(target)}",
            remedy="Name a dataset of its target, such as the one that it was trained on",
        )
    return candidate


def _in_words(target: Target) -> str:
    return f"{target.name} ({target.problem}, classes {list(target.classes)})"


def _load_champion(uri: str | None, target: Target, tracking_uri: str) -> tuple[TabularModel | None, str]:
    """Return the champion, or why it cannot be compared."""
    if uri is None:
        return None, ""
    champion = stored.load(uri, tracking_uri=tracking_uri)
    if champion.target != target:
        return None, f"The champion predicts another target: {_in_words(champion.target)}."
    return champion, ""


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
        columns=pl.concat([part.columns for part in parts]),
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
            yield Scores(rows.select(columns), actual, finite(candidate.score(rows)), champion_scores, error)

    return _joined(list(scores()))


def _score_champion(champion: TabularModel | None, rows: pl.DataFrame) -> tuple[np.ndarray | None, str]:
    """Return the champion's predictions for rows of the current dataset, or why there are none."""
    if champion is None:
        return None, ""
    try:
        return finite(champion.score(_as_trained(rows, champion))), ""
    except (RegistryError, StorageError, ConnectionError, TimeoutError):  # an outage says nothing about the champion
        raise
    except Exception as error:  # user code may raise anything; the candidate is evaluated anyway
        return None, f"The champion cannot score these rows: {named(error)}"


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
    target: Target,
    metric: str,
    scores: Scores,
    predictions: plots.Predictions,
    groups: np.ndarray,
    chosen: list[slices.Slice],
    confidence: float,
) -> Iterator[SliceMetrics]:
    """Measure each slice. Intervals are wide enough to hold for all of them at once (Bonferroni's correction)."""
    champion = predictions.get("champion")
    for part in chosen:
        in_slice = {name: predicted[part.rows] for name, predicted in predictions.items()}
        actual = scores.actual[part.rows]
        measured = _measure(target, actual, in_slice)
        yield SliceMetrics(
            column=part.column,
            value=part.value,
            candidate=measured["candidate"],
            baseline=measured["baseline"],
            champion=measured.get("champion"),
            interval=None
            if champion is None
            else comparison.interval(
                metrics.METRICS[metric],
                actual,
                in_slice["candidate"],
                in_slice["champion"],
                groups[part.rows],
                confidence=1 - (1 - confidence) / len(chosen),
            ),
        )
