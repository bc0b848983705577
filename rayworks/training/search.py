# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray has types for a part only.
"""A search on Ray Tune: its trials, each on a sample of the rows in memory, and how it is run and resumed."""

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayworks import storage
from rayworks.data import split_rows
from rayworks.errors import ClusterError, RayworksError, TrainingError
from rayworks.metrics import METRICS
from rayworks.params import TuneOptions
from rayworks.progress import Progress, silent
from rayworks.ray_error import MemoryReport, cause, report_of_memory
from rayworks.records import Dataset, SplitName
from rayworks.training import _private, loop

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

REPORT_SECONDS = 0.5  # a report costs a message and a decision of ASHA; rounds may be faster
ASHA_REDUCTION = 3  # a third of the trials at each rung continues
BEST, ROUND, FINISHED = "best", "round", "finished"
LISTENER: ContextVar[Progress] = ContextVar("LISTENER", default=silent)
"""The progress of the search that this process runs: see :func:`_callback`."""


@dataclass(frozen=True)
class Search:
    """What the trials of a search have in common.

    Args:
        metric: The name of what the loop reports.
        fixed: Hyperparameters that are the same in all trials.
        space: Ray Tune's samplers of the others.
        first: The first trial, or None for one that Optuna suggests.
        uri: The folder of the search.
    """

    dataset: Dataset
    options: TuneOptions
    loop: str
    metric: str
    fixed: dict[str, Any]
    space: dict[str, Any]
    first: dict[str, Any] | None
    uri: str


class TrialContext(loop.LoopContext):
    """The context of a trial: a sample of the rows in memory, and a report that may stop the trial."""

    def __init__(self, search: Search, data: dict[str, Any], hyperparameters: dict[str, Any]) -> None:
        options = search.options
        super().__init__(
            search.dataset,
            hyperparameters,
            metric=search.metric,
            rounds=options.rounds,
            patience=options.rounds,
            threads=max(1, int(options.cpus_per_trial)),
        )
        self._metric, self._loop, self._data = METRICS[search.metric], search.loop, data
        self.best, self._round, self._reported = self._metric.worst, 0, 0.0

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        """Yield the sample of a split."""
        features, labels = self._data[split]
        for start in range(0, len(labels), rows):
            yield features.iloc[start : start + rows], labels[start : start + rows]

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        """Record the best value so far, and report it to Ray Tune, at most every half second."""
        self.best = self._metric.best((self.best, loop.check_finite(round, validation)), float)
        self._round = round
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self.send(finished=False)

    def send(self, *, finished: bool) -> None:
        """Report to Ray Tune, which may stop the trial here."""
        from ray import tune

        if not self._round:
            raise loop.no_report(self._loop)
        self._reported = time.monotonic()
        tune.report({BEST: self.best, ROUND: self._round, FINISHED: finished})


def run(search: Search, progress: Progress) -> tuple[list[Any], int]:
    """Run the trials, or those that are missing from an interrupted search.

    Returns:
        Ray Tune's results, and the number of trials that had started before.
    """
    from ray import tune

    _private.snapshot_search_often()
    _private.silence("ray.tune", "optuna")
    progress(0.0, "reading the sample")
    trainable = _trainable(search)
    files, path = storage.filesystem(storage.join(search.uri, "ray"))
    listener = LISTENER.set(progress)
    try:
        if tune.Tuner.can_restore(path, storage_filesystem=files):
            resumed = _private.trials_in([uri for uri, _ in storage.list_files(storage.join(search.uri, "ray"))])
            tuner = tune.Tuner.restore(
                path, trainable, storage_filesystem=files, restart_errored=True, param_space=search.space
            )
        else:
            resumed, tuner = 0, _tuner(trainable, search)
        return list(cast(Any, tuner.fit())), resumed
    except Exception as error:
        failure = cause(error)
        if isinstance(failure, RayworksError):
            raise failure from error
        if report := report_of_memory([error]):
            raise out_of_memory(search.loop, report) from error
        raise TrainingError(
            "tuning failed",
            where=search.uri,
            detail=f"{type(failure).__name__}: {failure}",
            remedy="See the workers' logs",
        ) from error
    finally:
        LISTENER.reset(listener)


def out_of_memory(loop: str, report: MemoryReport) -> ClusterError:
    return ClusterError(
        "tuning ran out of memory",
        where=f"a trial of {loop} on node {report.node_ip}".removesuffix(" on node "),
        detail=report.detail,
        remedy="Decrease tune.max_rows or tune.concurrent, or give the Ray nodes more memory",
    )


def _trainable(search: Search) -> Any:
    """Return the function that Ray Tune calls for each trial. The trials share the sample in the object store."""
    import ray
    from ray import tune

    rows = search.options.max_rows
    sample = {name: split_rows.sampled(search.dataset, name, rows) for name in ("train", "validation")}
    data = ray.put(sample)

    def trial(config: dict[str, Any]) -> None:
        hyperparameters = {**search.fixed, **_private.plain(config)}
        context = TrialContext(search, cast(Any, ray.get(data)), hyperparameters)
        loop.run(search.loop, context)
        context.send(finished=True)

    return tune.with_resources(trial, {"CPU": search.options.cpus_per_trial})


def _tuner(trainable: Any, search: Search) -> Any:
    """Return a new search: Optuna suggests (TPE), ASHA stops trials that fall behind."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    options, (files, path) = search.options, storage.filesystem(search.uri)
    return tune.Tuner(
        trainable,
        param_space=search.space,
        tune_config=tune.TuneConfig(
            metric=BEST,
            mode="max" if METRICS[search.metric].higher_is_better else "min",
            num_samples=options.trials,
            time_budget_s=options.seconds,
            max_concurrent_trials=options.concurrent,
            reuse_actors=True,
            search_alg=OptunaSearch(seed=options.seed, points_to_evaluate=[search.first] if search.first else None),
            scheduler=ASHAScheduler(
                time_attr=ROUND,
                max_t=options.rounds,
                grace_period=min(options.grace_rounds, options.rounds),
                reduction_factor=ASHA_REDUCTION,
            ),
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=files,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[_callback(options, search.metric)],
        ),
    )


def _callback(options: TuneOptions, metric: str) -> Any:
    """Return a callback that shows the progress of the search.

    The callback of a resumed search is created again from what was pickled with it, so it takes the progress to call
    from ``LISTENER`` and not from an argument.
    """
    progress, started = LISTENER.get(), time.monotonic()

    def on_step(finished: int, values: list[float]) -> None:
        fraction = max(finished / options.trials, min(1.0, (time.monotonic() - started) / options.seconds))
        best = f", best {METRICS[metric].best(values, float):.4g}" if values else ""
        progress(fraction, f"{finished} of {options.trials} trials{best}")

    return _private.search_callback(on_step, partial(_callback, options, metric), BEST)
