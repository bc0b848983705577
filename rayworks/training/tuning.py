# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray and pyarrow bring types for a part only.
"""The best hyperparameters within a budget, by Ray Tune: Optuna proposes (TPE), ASHA stops the hopeless early."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError

from rayworks import __version__, import_path, reuse, storage
from rayworks.data import manifest, split_rows
from rayworks.errors import ParameterError, RayworksError, TrainingError
from rayworks.params import Choice, FloatRange, SearchDimension, TuneOptions
from rayworks.progress import Progress, silent
from rayworks.ray_error import cause
from rayworks.records import Dataset, DatasetRef, SplitName, Trial, TuneResult
from rayworks.reuse import Stage
from rayworks.training.loop import METRIC, LoopContext, check_finite, default_hyperparameters, run, search_space

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MANIFEST = "tune.json"
REPORT_SECONDS = 0.5  # a report costs a message and ASHA's decision; rounds may be faster
ASHA_REDUCTION = 3  # of each rung, a third goes on
LISTENER: ContextVar[Progress] = ContextVar("LISTENER", default=silent)


def fingerprint(dataset: DatasetRef, options: TuneOptions, loop: str, hyperparameters: dict[str, Any]) -> str:
    """A text that changes whenever the search would: by the data, the options or the code of the loop."""
    own = options.model_dump_json(exclude={"concurrent", "cpus_per_trial"})
    code = import_path.fingerprint(loop)
    return reuse.digest(__version__, dataset.fingerprint, own, sorted(hyperparameters.items()), code)


def stage(
    dataset: DatasetRef, options: TuneOptions, *, loop: str, hyperparameters: dict[str, Any], storage_uri: str
) -> Stage[TuneResult]:
    """Return the stage that searches hyperparameters for a training loop. A search that was interrupted is resumed.

    Args:
        hyperparameters: Fixed in all trials, and not searched.

    Its ``create`` raises:
        ParameterError: The search space is invalid, or the loop does not know one of its hyperparameters.
        TrainingError: No trial returned a result.
    """
    key = fingerprint(dataset, options, loop, hyperparameters)
    uri = reuse.location(storage_uri, "tuning", dataset.name, key)
    manifest_uri = storage.join(uri, MANIFEST)

    def create(progress: Progress) -> TuneResult:
        result = _tune(dataset, options, loop, hyperparameters, uri, progress)
        storage.write_record(manifest_uri, result)
        return result

    return Stage(partial(reuse.find_record, manifest_uri, TuneResult), create)


def _tune(
    dataset: DatasetRef, options: TuneOptions, loop: str, fixed: dict[str, Any], uri: str, progress: Progress
) -> TuneResult:
    declared = space_of(options, loop, fixed)
    space = {name: _dimension(name, dimension) for name, dimension in declared.items()}
    first = first_point(declared, default_hyperparameters(loop))
    search = _Search(manifest.load(dataset), options, loop, fixed, space, first, uri)
    results, resumed = _run(search, progress)
    trials = tuple(_trial(number, result, search) for number, result in enumerate(results))
    best, metric = _best(trials, results, search), METRIC[dataset.problem]
    progress(1.0, f"{len(trials)} trials, the best number {best.number} with {metric} {best.metric:.4g}")
    return TuneResult(uri=uri, metric=metric, best=best, trials=trials, resumed=resumed)


def space_of(options: TuneOptions, loop: str, fixed: Mapping[str, Any]) -> dict[str, SearchDimension]:
    """Return the space to search: that of the options, else that of the loop's module, without what is ``fixed``.

    Raises:
        ParameterError: The ``SPACE`` of the loop's module is invalid.
    """
    return {name: dimension for name, dimension in _declared_space(options, loop).items() if name not in fixed}


def _declared_space(options: TuneOptions, loop: str) -> dict[str, SearchDimension]:
    if options.space is not None:
        return options.space
    try:
        return TypeAdapter(dict[str, SearchDimension]).validate_python(search_space(loop))
    except ValidationError as error:
        first = error.errors()[0]
        where = f"SPACE of {loop}, {'.'.join(str(part) for part in first['loc'])}"
        raise ParameterError(
            "the search space cannot be used", where=where, detail=first["msg"], remedy="Correct it"
        ) from error


def first_point(space: dict[str, SearchDimension], defaults: dict[str, Any]) -> dict[str, Any] | None:
    """The defaults, to be tried before all else so that tuning never does worse; none where they are no point of it."""
    inside = (
        name in defaults
        and (
            defaults[name] in dimension.values
            if isinstance(dimension, Choice)
            else dimension.low <= defaults[name] <= dimension.high
        )
        for name, dimension in space.items()
    )
    return {name: defaults[name] for name in space} if all(inside) else None


@dataclass(frozen=True)
class _Search:
    """What the trials are made of."""

    dataset: Dataset
    options: TuneOptions
    loop: str
    fixed: dict[str, Any]
    space: dict[str, Any]
    first: dict[str, Any] | None
    uri: str


def _best(trials: tuple[Trial, ...], results: list[Any], search: _Search) -> Trial:
    finished = [(trial.metric, trial) for trial in trials if trial.metric is not None]
    if finished:
        best = min(finished, key=lambda pair: pair[0])[1]
        return best.model_copy(update={"hyperparameters": {**search.fixed, **best.hyperparameters}})
    failures = [cause(result.error) for result in results if result.error]
    for failure in failures:
        if isinstance(failure, ParameterError):
            raise failure
    raise TrainingError(
        "no trial came to a result",
        where=search.loop,
        detail=str(failures[0]) if failures else f"within {search.options.seconds:g} s",
        remedy="Give tuning more time, or mend what the trials say",
    )


def _dimension(name: str, dimension: SearchDimension) -> Any:
    """The declared range as Ray Tune's."""
    from ray import tune as ray_tune

    if isinstance(dimension, Choice):
        return ray_tune.choice(dimension.values)
    if dimension.low >= dimension.high or (dimension.log and dimension.low <= 0):
        said = f"from {dimension.low:g} to {dimension.high:g}{', logarithmic' if dimension.log else ''}"
        raise ParameterError(
            "the search range is empty",
            where=f"tune.space.{name}",
            detail=said,
            remedy="Set low below high, above 0 if log",
        )
    if isinstance(dimension, FloatRange):
        return (ray_tune.loguniform if dimension.log else ray_tune.uniform)(dimension.low, dimension.high)
    return (ray_tune.lograndint if dimension.log else ray_tune.randint)(dimension.low, dimension.high + 1)


class _TrialContext(LoopContext):
    """The context of a trial: a sample of the rows, in memory, and a report that may end the trial."""

    def __init__(self, search: _Search, data: dict[str, Any], hyperparameters: dict[str, Any]) -> None:
        options = search.options
        super().__init__(
            search.dataset,
            hyperparameters,
            rounds=options.rounds,
            patience=options.rounds,
            threads=max(1, int(options.cpus_per_trial)),
        )
        self._data, self._best, self._round, self._reported = data, float("inf"), 0, 0.0

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        features, labels = self._data[split]
        for start in range(0, len(labels), rows):
            yield features.iloc[start : start + rows], labels[start : start + rows]

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        self._best, self._round = min(self._best, check_finite(round, validation)), round
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self.send(finished=False)

    def send(self, *, finished: bool) -> None:
        """Tell Ray Tune, which may stop the trial here."""
        from ray import tune as ray_tune

        if not self._round:
            raise TrainingError("the training loop reported nothing", remedy="Call context.report after each round")
        self._reported = time.monotonic()
        ray_tune.report({"best": self._best, "round": self._round, "finished": finished})


def _run(search: _Search, progress: Progress) -> tuple[list[Any], int]:
    """Run the trials, or those that an interrupted search still owes. Returns their results and how many were there."""
    import ray
    from ray import tune as ray_tune

    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")  # by default, a kill loses up to ten seconds of trials
    for library in ("ray.tune", "optuna"):
        logging.getLogger(library).setLevel(logging.WARNING)
    progress(0.0, "reading the sample")
    sample = {
        name: split_rows.sampled(search.dataset, name, search.options.max_rows) for name in ("train", "validation")
    }
    data = ray.put(sample)

    def trial(config: dict[str, Any]) -> None:
        context = _TrialContext(search, cast(Any, ray.get(data)), {**search.fixed, **_plain(config)})
        run(search.loop, context)
        context.send(finished=True)

    trainable = ray_tune.with_resources(trial, {"CPU": search.options.cpus_per_trial})
    files, path = storage.filesystem(storage.join(search.uri, "ray"))
    listener = LISTENER.set(progress)
    try:
        if ray_tune.Tuner.can_restore(path, storage_filesystem=files):
            resumed = sum(
                uri.endswith("/result.json") for uri, _ in storage.list_files(storage.join(search.uri, "ray"))
            )
            tuner = ray_tune.Tuner.restore(
                path, trainable, storage_filesystem=files, restart_errored=True, param_space=search.space
            )
        else:
            resumed, tuner = 0, _tuner(trainable, search)
        return list(cast(Any, tuner.fit())), resumed
    except Exception as error:
        known = cause(error)
        if isinstance(known, RayworksError):
            raise known from error
        raise TrainingError(
            "tuning failed", where=search.uri, detail=f"{type(known).__name__}: {known}", remedy="See the workers' logs"
        ) from error
    finally:
        LISTENER.reset(listener)


def _tuner(trainable: Any, search: _Search) -> Any:
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    options, (files, path) = search.options, storage.filesystem(search.uri)
    return ray_tune.Tuner(
        trainable,
        param_space=search.space,
        tune_config=ray_tune.TuneConfig(
            metric="best",
            mode="min",
            num_samples=options.trials,
            time_budget_s=options.seconds,
            max_concurrent_trials=options.concurrent,
            reuse_actors=True,
            search_alg=OptunaSearch(seed=options.seed, points_to_evaluate=[search.first] if search.first else None),
            scheduler=ASHAScheduler(
                time_attr="round",
                max_t=options.rounds,
                grace_period=min(options.grace_rounds, options.rounds),
                reduction_factor=ASHA_REDUCTION,
            ),
        ),
        run_config=ray_tune.RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=files,
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=1),
            callbacks=[_watching(options)],
        ),
    )


def _watching(options: TuneOptions) -> Any:
    """A callback that tells the listener of this search how far it is.

    Tune keeps its callbacks with the experiment: pickled, this one is only how to make it anew, for the search
    that takes the experiment over has a listener of its own.
    """
    from ray.tune import Callback

    class Watching(Callback):
        def __init__(self) -> None:
            self.progress, self.began = LISTENER.get(), time.monotonic()

        def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
            done = sum(trial.is_finished() for trial in trials)
            bests = [trial.last_result["best"] for trial in trials if "best" in trial.last_result]
            part = max(done / options.trials, min(1.0, (time.monotonic() - self.began) / options.seconds))
            message = f"{done} of {options.trials} trials" + (f", best {min(bests):.4g}" if bests else "")
            self.progress(part, message)

        def __reduce__(self) -> tuple[Any, ...]:
            return _watching, (options,)

    return Watching()


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Python's own numbers for numpy's."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in config.items()}


def _trial(number: int, result: Any, search: _Search) -> Trial:
    metrics: dict[str, Any] = result.metrics or {}
    rounds = int(metrics.get("round", 0))
    error = str(cause(result.error)) if result.error else ""
    finished = metrics.get("finished") or rounds >= search.options.rounds
    config = _plain(result.config or {})
    return Trial(
        number=number,
        hyperparameters={name: config[name] for name in search.space if name in config},
        metric=metrics.get("best"),
        rounds=rounds,
        seconds=float(metrics.get("time_total_s", 0.0)),
        state="failed" if error else "completed" if finished else "stopped early",
        error=error,
    )
