"""A candidate beside a naive baseline and the champion, on the same hold-out rows.

Models are asked for raw rows, as they will be when served. Ray tasks score a file each; what comes back, and must fit
the coordinator's memory, is the target, the predictions and the slice columns (about 100 bytes a row for a regression).
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from rayworks import __version__, storage, tabular_model
from rayworks.errors import ParameterError, RayworksError
from rayworks.params import EvaluateOptions
from rayworks.progress import Progress, silent
from rayworks.records import Dataset, DatasetRef, Evaluation, Metrics, PlotData, SliceMetrics, Target
from rayworks.stages import features, loop, metrics, processing
from rayworks.stages.ray_error import cause

SLICE_VALUES_AT_MOST = 20  # of a column that is sliced by without being asked
SLICE_VALUES_SHOWN = 50
IMPORTANT_FEATURES = 20
BINS = 40


class Scored:
    """The hold-out rows with what each model says. Rows of ``candidate`` and ``champion``: amounts, or probabilities."""

    def __init__(self, rows: pl.DataFrame, actual: np.ndarray, candidate: np.ndarray, champion: np.ndarray | None) -> None:
        self.rows, self.actual, self.candidate, self.champion = rows, actual, candidate, champion


def location(
    candidate_uri: str, dataset: DatasetRef, champion_uri: str | None, options: EvaluateOptions, *, storage_uri: str
) -> str:
    """Where the evaluation is kept, whether it was made or not."""
    key = loop.digest(__version__, candidate_uri, dataset.fingerprint, champion_uri, options.model_dump_json())
    return storage.join(storage.absolute(storage_uri), "evaluations", f"{dataset.name}-{key[:12]}.json")


def evaluate(
    candidate_uri: str, dataset: DatasetRef, *, champion_uri: str | None, options: EvaluateOptions, storage_uri: str,
    tracking_uri: str, progress: Progress = silent,
) -> Evaluation:  # fmt: skip
    """Score candidate, baseline and champion on the test split, overall and by slice, or find where it was done.

    Raises:
        ParameterError: An unknown slice column, or a metric that does not fit.
        RegistryError: The candidate cannot be loaded. A champion that cannot is told of in ``champion_error``.
    """
    uri = location(candidate_uri, dataset, champion_uri, options, storage_uri=storage_uri)
    if storage.exists(uri):
        return storage.read_record(uri, Evaluation)
    whole = processing.load(dataset)
    metric = metrics.metric_for(dataset.problem, options.metric)
    columns = slice_columns(whole, options.slices)
    candidate = tabular_model.load(candidate_uri, tracking_uri=tracking_uri)
    champion, champion_error = _loaded_champion(champion_uri, whole.target, tracking_uri)
    progress(0.1, f"scoring {whole.split('test').rows:,} hold-out rows")
    scored, champion_error = _scored(whole, candidate, champion, champion_error, columns, progress)
    predictions = {
        "candidate": scored.candidate,
        "baseline": metrics.baseline(whole, len(scored.actual)),
        "champion": scored.champion,
    }
    overall = {name: _metrics(whole.target, scored.actual, p) for name, p in predictions.items() if p is not None}
    evaluation = Evaluation(
        uri=uri, metric=metric, dataset_uri=whole.uri, candidate_uri=candidate_uri, champion_uri=champion_uri,
        candidate=overall["candidate"], baseline=overall["baseline"], champion=overall.get("champion"),
        champion_error=champion_error, slices=tuple(_slices(whole.target, scored, predictions, columns, options)),
        plots=(*plots(whole.target, scored), *_importance(candidate)),
    )  # fmt: skip
    storage.write_record(uri, evaluation)
    return evaluation


def _loaded_champion(uri: str | None, target: Target, tracking_uri: str) -> "tuple[tabular_model.TabularModel | None, str]":
    if uri is None:
        return None, ""
    try:
        champion = tabular_model.load(uri, tracking_uri=tracking_uri)
    except RayworksError as error:
        return None, str(error)
    if champion.target != target:
        return None, f"The champion predicts {champion.target.name} ({champion.target.problem}) with other classes."
    return champion, ""


def slice_columns(dataset: Dataset, chosen: Sequence[str] | None) -> list[str]:
    """The columns to slice by: as chosen, or the categorical and boolean ones with few values.

    Raises:
        ParameterError: A chosen column is not among those of the test rows.
    """
    known = {column.name: column for column in dataset.feature_set.columns}
    if chosen is not None:
        if unknown := [name for name in chosen if name not in known]:
            raise ParameterError(
                "cannot slice by a column that is not there", where=", ".join(unknown), said=f"columns: {', '.join(known)}",
                remedy="Choose among the columns of the data that are in use",
            )  # fmt: skip
        return list(chosen)
    few = {s.name for s in dataset.split("train").statistics if 2 <= len(s.values) <= SLICE_VALUES_AT_MOST}
    return [name for name, column in known.items() if name in few or column.kind == "boolean"]


def _scored(
    dataset: Dataset, candidate: "tabular_model.TabularModel", champion: "tabular_model.TabularModel | None", champion_error: str,
    columns: list[str], progress: Progress,
) -> tuple[Scored, str]:  # fmt: skip
    """Ask both models for all test rows, a Ray task a file. Columns that the champion needs and the data lack are null."""
    import ray

    files = [uri for uri, _ in storage.list_files(dataset.split("test").uri)]
    kept = list(dict.fromkeys([*columns, dataset.target.name]))
    models = ray.put((candidate, champion))

    @ray.remote
    def score(uri: str, models: Any) -> tuple[pl.DataFrame, np.ndarray, np.ndarray | None, str]:
        with storage.open_input(uri) as source:
            rows = pl.read_parquet(source.read())
        theirs, error = None, ""
        if models[1] is not None:
            try:
                theirs = models[1].score(_with_nulls(rows, models[1]))
            except Exception as failure:  # whatever keeps the champion from answering is told, the candidate is judged
                error = f"{type(failure).__name__}: {failure}"
        return rows.select(kept), models[0].score(rows), theirs, error

    tasks = [score.remote(uri, models) for uri in files]
    parts: list[Any] = []
    try:
        for done, task in enumerate(tasks, start=1):
            parts.append(ray.get(task))
            progress(0.1 + 0.8 * done / len(tasks), f"scored {done} of {len(tasks)} files")
    except ray.exceptions.RayError as error:
        raise cause(error) from error
    rows = pl.concat([part[0] for part in parts])
    errors = [part[3] for part in parts if part[3]] or ([champion_error] if champion_error else [])
    theirs = None if champion is None or errors else np.concatenate([part[2] for part in parts])
    ours = np.concatenate([part[1] for part in parts])
    return Scored(rows, features.encode_target(rows[dataset.target.name], dataset.target), ours, theirs), "; ".join(errors[:1])


def _with_nulls(rows: pl.DataFrame, model: "tabular_model.TabularModel") -> pl.DataFrame:
    """The rows as ``model`` declares them."""
    from rayworks.stages.validation import POLARS_TYPES

    return rows.select(
        pl.col(c.name).cast(POLARS_TYPES[c.dtype]) if c.name in rows.columns else pl.lit(None, POLARS_TYPES[c.dtype]).alias(c.name)
        for c in model.feature_set.columns
    )


def _metrics(target: Target, actual: np.ndarray, predicted: np.ndarray) -> Metrics:
    return Metrics(rows=len(actual), values=metrics.compute(target, actual, predicted))


def _slices(
    target: Target, scored: Scored, predictions: dict[str, np.ndarray | None], columns: list[str], options: EvaluateOptions
) -> list[SliceMetrics]:  # fmt: skip
    found: list[SliceMetrics] = []
    for column in columns:
        values = _slice_values(scored.rows[column])
        sizes = values.value_counts(sort=True).head(SLICE_VALUES_SHOWN)
        for value, size in sizes.iter_rows():
            if size >= options.minimum_slice_rows:
                chosen = (values == value).to_numpy()
                of = {n: _metrics(target, scored.actual[chosen], p[chosen]) for n, p in predictions.items() if p is not None}
                found.append(
                    SliceMetrics(
                        column=column, value=value, candidate=of["candidate"], baseline=of["baseline"], champion=of.get("champion")
                    )
                )
    return found


def _slice_values(values: pl.Series) -> pl.Series:
    """What each row counts under: its value, the quarter of the range that holds a quarter of the rows, or 'missing'."""
    if values.dtype.is_numeric() and values.n_unique() > SLICE_VALUES_AT_MOST:
        quarters = values.qcut([0.25, 0.5, 0.75], allow_duplicates=True)
        return quarters.cast(pl.String).fill_null("missing")
    return values.cast(pl.String).fill_null("missing")


def plots(target: Target, scored: Scored) -> list[PlotData]:
    """What is drawn of the predictions."""
    if target.problem == "regression":
        return [_residuals(scored), _by_decile(scored)]
    shown = [_reliability(target, scored)]
    return [*shown, _roc(scored)] if target.problem == "binary" else [*shown, _confusion(target, scored)]


def _each(scored: Scored, draw: Callable[[np.ndarray], np.ndarray]) -> dict[str, tuple[float, ...]]:
    both = {"candidate": scored.candidate} | ({} if scored.champion is None else {"champion": scored.champion})
    return {name: tuple(float(value) for value in draw(predicted)) for name, predicted in both.items()}


def _residuals(scored: Scored) -> PlotData:
    residuals = scored.actual - scored.candidate
    low, high = np.quantile(residuals, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    counted = _each(scored, lambda predicted: np.histogram(scored.actual - predicted, bins=edges)[0])
    return PlotData(name="residuals", x=tuple(map(float, middles)), series=counted)


def _by_decile(scored: Scored) -> PlotData:
    """Mean of prediction and of truth in each tenth of the candidate's predictions."""
    parts = np.array_split(np.argsort(scored.candidate, kind="stable"), min(10, len(scored.actual)))
    means = _each(scored, lambda predicted: np.array([predicted[part].mean() for part in parts]))
    actual = tuple(float(scored.actual[part].mean()) for part in parts)
    return PlotData(name="calibration", x=tuple(range(1, len(parts) + 1)), series={"actual": actual, **means})


def _reliability(target: Target, scored: Scored) -> PlotData:
    """How often the most likely class (of two: the second) came true, by its probability."""
    middles = np.linspace(0.05, 0.95, 10)

    def observed(predicted: np.ndarray) -> np.ndarray:
        binary = target.problem == "binary"
        probability = predicted[:, 1] if binary else predicted.max(axis=1)
        true = scored.actual == (1 if binary else predicted.argmax(axis=1))
        bins = np.clip((probability * 10).astype(int), 0, 9)
        sums, counts = np.bincount(bins, true, 10), np.bincount(bins, minlength=10)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    return PlotData(name="reliability", x=tuple(map(float, middles)), series=_each(scored, observed))


def _roc(scored: Scored) -> PlotData:
    from sklearn.metrics import roc_curve

    grid = np.linspace(0, 1, 51)
    if len(np.unique(scored.actual)) < 2:
        return PlotData(name="roc", x=(), series={})

    def curve(predicted: np.ndarray) -> np.ndarray:
        false_positive, true_positive, _ = roc_curve(scored.actual, predicted[:, 1])
        return np.interp(grid, false_positive, true_positive)

    return PlotData(name="roc", x=tuple(map(float, grid)), series=_each(scored, curve))


def _confusion(target: Target, scored: Scored) -> PlotData:
    labels = tuple(str(label) for label in target.classes)
    counts = np.zeros((len(labels), len(labels)))
    np.add.at(counts, (scored.actual, scored.candidate.argmax(axis=1)), 1)
    series = {f"predicted {label}": tuple(map(float, counts[:, i])) for i, label in enumerate(labels)}
    return PlotData(name="confusion", x=labels, series=series)


def _importance(model: "tabular_model.TabularModel") -> list[PlotData]:
    gains = sorted(model.importance().items(), key=lambda pair: -pair[1])[:IMPORTANT_FEATURES]
    total = sum(gain for _, gain in gains)
    if not total:
        return []
    shares = tuple(gain / total for _, gain in gains)
    return [PlotData(name="importance", x=cast(Any, tuple(name for name, _ in gains)), series={"share of gain": shares})]
