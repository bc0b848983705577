"""The best hyperparameters within a budget, by Ray Tune: Optuna proposes (TPE), ASHA stops the hopeless early."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayworks import __version__, import_path, storage
from rayworks.errors import ParameterError, RayworksError, TrainingError
from rayworks.params import Choice, FloatRange, SearchDimension, TuneOptions
from rayworks.progress import Progress, silent
from rayworks.records import Dataset, DatasetRef, SplitName, Trial, TuneResult
from rayworks.stages import loop, processing, share
from rayworks.stages.ray_error import cause

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MANIFEST = "tune.json"
REPORT_SECONDS = 0.5  # a report costs a message and ASHA's decision; rounds may be faster
ASHA_REDUCTION = 3  # of each rung, a third goes on


def fingerprint(dataset: DatasetRef, options: TuneOptions, loop_path: str, hyperparameters: dict[str, Any]) -> str:
    """A text that changes whenever the search would: by the data, the options or the code of the loop."""
    own = options.model_dump_json(exclude={"concurrent", "cpus_per_trial"})
    return loop.digest(__version__, dataset.fingerprint, own, sorted(hyperparameters.items()), import_path.fingerprint(loop_path))


def location(
    dataset: DatasetRef, options: TuneOptions, loop_path: str, hyperparameters: dict[str, Any], *, storage_uri: str
) -> str:
    """The folder of the search, whether it was made or not."""
    key = fingerprint(dataset, options, loop_path, hyperparameters)
    return storage.join(storage.absolute(storage_uri), "tuning", f"{dataset.name}-{key[:12]}")


def tune(
    dataset: DatasetRef, options: TuneOptions, *, loop_path: str, hyperparameters: dict[str, Any], storage_uri: str,
    progress: Progress = silent,
) -> TuneResult:  # fmt: skip
    """Search, or find the search that was made of the same. A search that was cut off goes on where it stood.

    Args:
        hyperparameters: Fixed for all trials.

    Raises:
        ParameterError: The search space makes no sense.
        TrainingError: No trial came to a result.
    """
    uri = location(dataset, options, loop_path, hyperparameters, storage_uri=storage_uri)
    if storage.exists(storage.join(uri, MANIFEST)):
        return storage.read_record(storage.join(uri, MANIFEST), TuneResult)
    import_path.load(loop_path)
    space = {name: _dimension(name, dimension) for name, dimension in options.space.items() if name not in hyperparameters}
    results, resumed = _search(processing.load(dataset), options, loop_path, hyperparameters, space, uri, progress)
    trials = tuple(_trial(number, result, set(space), options.rounds) for number, result in enumerate(results))
    finished = [trial for trial in trials if trial.metric is not None]
    if not finished:
        errors = [trial.error for trial in trials if trial.error]
        raise TrainingError(
            "no trial came to a result", where=loop_path, said=errors[0] if errors else f"within {options.seconds:g} s",
            remedy="Give tuning more time, or mend what the trials say",
        )  # fmt: skip
    best = min(finished, key=lambda trial: trial.metric if trial.metric is not None else 0.0)
    best = best.model_copy(update={"hyperparameters": {**hyperparameters, **best.hyperparameters}})
    result = TuneResult(uri=uri, metric=loop.METRIC[dataset.problem], best=best, trials=trials, resumed=resumed)
    storage.write_record(storage.join(uri, MANIFEST), result)
    return result


def _dimension(name: str, dimension: SearchDimension) -> Any:
    """The declared range as Ray Tune's."""
    from ray import tune as ray_tune

    if isinstance(dimension, Choice):
        return ray_tune.choice(dimension.values)
    if dimension.low >= dimension.high or (dimension.log and dimension.low <= 0):
        said = f"from {dimension.low:g} to {dimension.high:g}{', logarithmic' if dimension.log else ''}"
        raise ParameterError("the search range is empty", where=f"tune.space.{name}", said=said, remedy="Set low below high, above 0 if log")
    if isinstance(dimension, FloatRange):
        return (ray_tune.loguniform if dimension.log else ray_tune.uniform)(dimension.low, dimension.high)
    return (ray_tune.lograndint if dimension.log else ray_tune.randint)(dimension.low, dimension.high + 1)


class _TrialContext(loop.LoopContext):
    """The context of a trial: a sample of the rows, in memory, and a report that may end the trial."""

    def __init__(self, dataset: Dataset, data: dict[str, Any], options: TuneOptions, hyperparameters: dict[str, Any]) -> None:
        super().__init__(
            dataset, hyperparameters, rounds=options.rounds, patience=options.rounds, threads=max(1, int(options.cpus_per_trial))
        )
        self._data, self._best, self._reported = data, float("inf"), 0.0
        self.last: dict[str, Any] = {}

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        features, labels = self._data[split]
        for start in range(0, len(labels), rows):
            yield features.iloc[start : start + rows], labels[start : start + rows]

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        self._best = min(self._best, validation)
        self.last = {"best": self._best, "round": round}
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self.send()

    def send(self) -> None:
        """Tell Ray Tune, which may stop the trial here."""
        from ray import tune as ray_tune

        self._reported = time.monotonic()
        ray_tune.report(self.last)


def _search(
    dataset: Dataset, options: TuneOptions, loop_path: str, fixed: dict[str, Any], space: dict[str, Any], uri: str,
    progress: Progress,
) -> tuple[list[Any], int]:  # fmt: skip
    """Run the trials, or those that an interrupted search still owes. Returns their results and how many were there."""
    import ray
    from ray import tune as ray_tune

    progress(0.0, "reading the sample")
    data = ray.put({name: share.sampled(dataset, name, options.max_rows) for name in ("train", "validation")})

    def trial(config: dict[str, Any]) -> None:
        hyperparameters = {name: value.item() if hasattr(value, "item") else value for name, value in config.items()}
        context = _TrialContext(dataset, cast(dict[str, Any], ray.get(data)), options, {**fixed, **hyperparameters})
        loop.run(loop_path, context)
        context.send()

    trainable = ray_tune.with_resources(trial, {"CPU": options.cpus_per_trial})
    files, path = storage.filesystem(uri)
    experiment = storage.join(uri, "ray")
    if storage.exists(storage.join(experiment, "tuner.pkl")) and ray_tune.Tuner.can_restore(f"{path}/ray", storage_filesystem=files):
        tuner = ray_tune.Tuner.restore(
            f"{path}/ray", trainable, storage_filesystem=files, resume_unfinished=True, restart_errored=True, param_space=space
        )
        resumed = len([file for file, _ in storage.list_files(experiment) if file.endswith("result.json")])
    else:
        tuner, resumed = _tuner(trainable, space, options, files, path, progress), 0
    try:
        return list(tuner.fit()), resumed
    except Exception as error:
        known = cause(error)
        if isinstance(known, RayworksError):
            raise known from error
        raise TrainingError("tuning failed", where=uri, said=f"{type(known).__name__}: {known}", remedy="See the workers' logs") from error


def _tuner(trainable: Any, space: dict[str, Any], options: TuneOptions, files: Any, path: str, progress: Progress) -> Any:
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    return ray_tune.Tuner(
        trainable,
        param_space=space,
        tune_config=ray_tune.TuneConfig(
            metric="best", mode="min", num_samples=options.trials, time_budget_s=options.seconds,
            max_concurrent_trials=options.concurrent, reuse_actors=True, search_alg=OptunaSearch(seed=options.seed),
            scheduler=ASHAScheduler(
                time_attr="round", max_t=options.rounds, grace_period=min(options.grace_rounds, options.rounds),
                reduction_factor=ASHA_REDUCTION,
            ),
        ),
        run_config=ray_tune.RunConfig(
            name="ray", storage_path=path, storage_filesystem=files, verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=1), callbacks=[_Watching(options, progress)],
        ),
    )  # fmt: skip


def _Watching(options: TuneOptions, progress: Progress) -> Any:  # noqa: N802 - makes a class of Ray's, which is imported late
    from ray.tune import Callback

    class Watching(Callback):
        """Shows how far the search is. It is kept with the experiment, so it holds nothing that cannot be pickled."""

        def __init__(self) -> None:
            self.began, self.done, self.best = time.monotonic(), 0, float("inf")

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
            self.best = min(self.best, result.get("best", float("inf")))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            self.done += 1
            share = max(self.done / options.trials, min(1.0, (time.monotonic() - self.began) / options.seconds))
            progress(share, f"{self.done} of {options.trials} trials, best {self.best:.5g}")

        def __getstate__(self) -> dict[str, Any]:
            return {}

    return Watching()


def _trial(number: int, result: Any, searched: set[str], most_rounds: int) -> Trial:
    metrics: dict[str, Any] = result.metrics or {}
    best = metrics.get("best")
    rounds, seconds = int(metrics.get("round", 0)), float(metrics.get("time_total_s", 0.0))
    error = str(cause(result.error)) if result.error else ""
    hyperparameters = {name: value.item() if hasattr(value, "item") else value for name, value in (result.config or {}).items()}
    state = "failed" if error else "completed" if rounds >= most_rounds else "stopped early"
    return Trial(
        number=number, hyperparameters={k: v for k, v in hyperparameters.items() if k in searched},
        metric=float(best) if best is not None else None, rounds=rounds, seconds=seconds, state=state, error=error,
    )  # fmt: skip
