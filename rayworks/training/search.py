# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray has types for a part only.
"""A search: Optuna suggests hyperparameters, Ray tasks run the loop with them on each fold, and trials are stored.

Each trial runs the whole loop, with the rounds and the patience of the training that follows. Trials compared at equal
numbers of rounds, as ASHA does, favour those that learn fast over those that learn well.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayworks import capacity, parallel, storage
from rayworks.data import folds as row_folds
from rayworks.data import split_rows
from rayworks.data.folds import Fold
from rayworks.errors import ClusterError, ParameterError, RayworksError, TrainingError, TransferError, named
from rayworks.metrics import METRICS
from rayworks.models.predictions import finite, predictions
from rayworks.params import TrainOptions, TuneOptions
from rayworks.progress import Progress
from rayworks.ray_error import MemoryReport, cause, node_of, report_of_memory
from rayworks.records import Dataset, SplitName, Trial
from rayworks.training import _private, loop, search_space

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from optuna import Study

TRIALS = "trials"


@dataclass(frozen=True)
class Search:
    """What the trials of a search have in common.

    Args:
        metric: The name of what the loop reports.
        fixed: Hyperparameters that are the same in all trials.
        first: The first trial, or None for one that Optuna suggests.
        uri: The folder of the search.
    """

    dataset: Dataset
    options: TuneOptions
    train: TrainOptions
    metric: str
    fixed: dict[str, Any]
    space: search_space.Space
    first: dict[str, Any] | None
    uri: str


@dataclass(frozen=True)
class Sample:
    """The rows of a search: features, target, and its folds."""

    features: "pd.DataFrame"
    labels: "np.ndarray"
    folds: tuple[Fold, ...]


@dataclass(frozen=True)
class Run:
    """A run of the loop: the number of its trial, and that of the fold."""

    trial: int
    fold: int
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What a run returned: the metric on each block of the fold, or its failure."""

    run: Run
    values: tuple[float, ...] = ()
    rounds: int = 0
    seconds: float = 0.0
    failure: Exception | None = None


@dataclass
class _State:
    """What has come in of a search, by the numbers of the trials."""

    suggested: dict[int, Any] = field(default_factory=dict[int, Any])
    measured: dict[int, list[Measured]] = field(default_factory=dict[int, list[Measured]])
    trials: dict[int, Trial] = field(default_factory=dict[int, Trial])
    failures: dict[int, Exception] = field(default_factory=dict[int, Exception])


class FoldContext(loop.LoopContext):
    """The context of a run: the rows of a fold in memory, and nothing to write."""

    def __init__(self, search: Search, sample: Sample, fold: Fold, hyperparameters: dict[str, Any]) -> None:
        super().__init__(
            search.dataset,
            hyperparameters,
            metric=search.metric,
            rounds=search.train.rounds,
            patience=search.train.early_stopping_rounds,
            threads=max(1, int(search.options.cpus_per_trial)),
        )
        self._sample, self._fold, self._metric = sample, fold, METRICS[search.metric]
        self.best, self.best_round = self._metric.worst, 0

    def rows(self, split: SplitName) -> "np.ndarray":
        """Return the numbers of the rows of a split."""
        import numpy as np

        return self._fold.train if split == "train" else np.concatenate(self._fold.validation)

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        """Yield the rows of a split of the fold."""
        numbers = self.rows(split)
        for start in range(0, len(numbers), rows):
            batch = numbers[start : start + rows]
            yield self._sample.features.iloc[batch], self._sample.labels[batch]

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        """Remember the best round."""
        if self._metric.is_better(loop.check_finite(round, validation), self.best) or not self.best_round:
            self.best, self.best_round = validation, round


def run(search: Search, progress: Progress) -> tuple[tuple[Trial, ...], int, dict[int, Exception]]:
    """Run the trials, or those that are missing from an interrupted search.

    Returns:
        The trials in order of their numbers, how many of them had run before, and the failures of others by number.

    Raises:
        ClusterError: No node of Ray has the CPUs of a run, and none may come.
        TransferError: The loop's model cannot be stored.
    """
    _check_capacity(search.options)
    _private.silence("optuna")
    space = search_space.distributions(search.space)
    progress(0.0, "reading the sample")
    sample = _sample(search)
    state = _State(trials=stored(search.uri))
    study, resumed = _study(search, space, state.trials), len(state.trials)

    def measure(run: Run) -> Measured:
        return _measure(search, sample, run)

    runs = _runs(search, space, study, state, len(sample.folds))
    measuring = parallel.map_unordered(
        measure,
        runs,
        num_cpus=search.options.cpus_per_trial,
        in_flight=_in_flight(search.options, len(sample.folds)),
        on_failure=lambda run, error: Measured(run, failure=error),
    )
    for done, measured in enumerate(measuring, start=resumed * len(sample.folds) + 1):
        if isinstance(measured.failure, TransferError):
            raise measured.failure  # no hyperparameters change that
        _add(search, study, state, measured, len(sample.folds))
        progress(done / len(sample.folds) / search.options.trials, _in_words(search, state.trials))
    return tuple(state.trials[number] for number in sorted(state.trials)), resumed, state.failures


def _check_capacity(options: TuneOptions) -> None:
    requests = capacity.requests_of({"num_cpus": options.cpus_per_trial})
    if shortage := capacity.shortage(requests, capacity.nodes_now(), capacity.nodes_to_come()):
        raise ClusterError(
            "no node of Ray has the CPUs of a trial",
            where=capacity.amounts(requests),
            detail=f"they have {shortage}",
            remedy="Decrease tune.cpus_per_trial",
        )


def _in_words(search: Search, trials: dict[int, Trial]) -> str:
    values = [trial.metric for trial in trials.values() if trial.metric is not None]
    best = f", best {METRICS[search.metric].best(values, float):.4g}" if values else ""
    return f"{len(trials)} of {search.options.trials} trials{best}"


def _sample(search: Search) -> Sample:
    """Read a sample of the training and validation rows, and divide it into folds."""
    dataset = search.dataset
    features, labels, values = split_rows.sampled(dataset, ("train", "validation"), search.options.max_rows)
    train, validation = (dataset.split(name).rows for name in ("train", "validation"))
    share = validation / (train + validation)
    folds = row_folds.of(dataset.split_method, values, len(labels), share)
    return Sample(features, labels, folds)


def _in_flight(options: TuneOptions, folds: int) -> int:
    """Return how many runs there are at a time. A cluster that may grow is asked for as many as could run at once."""
    import ray

    if options.concurrent:
        return options.concurrent
    if capacity.may_grow():
        return options.trials * folds
    cpus = float(cast(Any, ray.cluster_resources)().get("CPU", 1))
    return max(1, int(cpus / options.cpus_per_trial))


def _study(search: Search, space: dict[str, Any], finished: dict[int, Trial]) -> "Study":
    """Return Optuna's study, with the trials of an interrupted search."""
    import optuna

    options = search.options
    study = optuna.create_study(
        direction="maximize" if METRICS[search.metric].higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=options.seed + len(finished), constant_liar=True),
    )
    for trial in finished.values():
        if trial.metric is not None:
            study.add_trial(
                optuna.trial.create_trial(params=trial.hyperparameters, distributions=space, value=trial.metric)
            )
    if search.first and 0 not in finished:
        study.enqueue_trial(search.first)
    return study


def _runs(search: Search, space: dict[str, Any], study: "Study", state: _State, folds: int) -> Iterator[Run]:
    """Yield the runs of the missing trials until the time is over. A trial that failed has no further runs."""
    deadline = time.monotonic() + search.options.seconds
    for number in range(search.options.trials):
        if number in state.trials:
            continue
        if time.monotonic() > deadline and state.suggested:
            return
        suggested = state.suggested[number] = study.ask(space)
        for fold in range(folds):
            if number not in state.failures:
                yield Run(number, fold, {**search.fixed, **suggested.params})


def _measure(search: Search, sample: Sample, run: Run) -> Measured:
    """Run the loop, in a Ray task, and measure its model on the blocks of the fold."""
    started, fold = time.monotonic(), sample.folds[run.fold]
    context = FoldContext(search, sample, fold, dict(run.hyperparameters))
    try:
        model = loop.run(search.train.loop, context)
        if not context.best_round:
            raise loop.no_report(search.train.loop)
        rows = context.rows("validation")
        classes = len(search.dataset.target.classes)
        predicted = finite(predictions(model, sample.features.iloc[rows], classes=classes))
    except RayworksError as error:
        return Measured(run, failure=error, seconds=time.monotonic() - started)
    measure, start, values = METRICS[search.metric].measure, 0, list[float]()
    for block in fold.validation:
        value = measure(sample.labels[block], predicted[start : start + len(block)])
        start += len(block)
        if value is not None:
            values.append(float(value))
    return Measured(run, tuple(values), context.best_round, time.monotonic() - started)


def _add(search: Search, study: "Study", state: _State, measured: Measured, folds: int) -> None:
    """Add the result of a run; the last one of a trial completes and stores it."""
    from optuna.trial import TrialState

    number = measured.run.trial
    if number in state.trials:
        return  # another run of it failed before
    suggested, failure = state.suggested[number], measured.failure
    state.measured.setdefault(number, []).append(measured)
    parts = sorted(state.measured[number], key=lambda part: part.run.fold)
    if failure is None and len(parts) < folds:
        return
    values = tuple(value for part in parts for value in part.values)
    trial = Trial(
        number=number,
        hyperparameters=suggested.params,
        metric=sum(values) / len(values) if values and failure is None else None,
        values=values if failure is None else (),
        rounds=round(sum(part.rounds for part in parts) / len(parts)),
        seconds=sum(part.seconds for part in parts),
        state="completed" if failure is None else "failed",
        error="" if failure is None else _error(failure),
    )
    state.trials[number] = trial
    if failure is None:
        study.tell(suggested, trial.metric)
        storage.write_record(_uri(search.uri, number), trial)
    else:
        state.failures[number] = failure
        study.tell(suggested, state=TrialState.FAIL)


def _error(failure: Exception) -> str:
    """Return what a person wants to read of a failure: Ray's own report of a lack of memory has a page."""
    report = report_of_memory([failure])
    return f"It ran out of memory: {report.detail}" if report else _reason(failure)


def _reason(failure: Exception) -> str:
    """Return the sentence of an error of ours, and class and message of any other."""
    reason = cause(failure)
    return str(reason) if isinstance(reason, RayworksError) else named(reason)


def _uri(search_uri: str, number: int) -> str:
    return storage.join(search_uri, TRIALS, f"{number:05}.json")


def stored(search_uri: str) -> dict[int, Trial]:
    """Return the completed trials of a search that was interrupted, by their numbers."""
    folder = storage.join(search_uri, TRIALS)
    if not storage.exists(folder):
        return {}
    trials = [storage.read_record(uri, Trial) for uri, _ in storage.list_files(folder)]
    return {trial.number: trial for trial in trials}


def failed(search: Search, failures: dict[int, Exception]) -> RayworksError:
    """Return why no trial returned a result."""
    for reason in map(cause, failures.values()):
        if isinstance(reason, ParameterError):
            return reason
    if report := report_of_memory(list(failures.values())):
        return _out_of_memory(search.train.loop, report)
    return TrainingError(
        "no trial returned a result",
        where=search.train.loop,
        detail=next(map(_reason, failures.values()), "none was started"),
        remedy="Fix what the trials report",
    )


def _out_of_memory(loop: str, report: MemoryReport) -> ClusterError:
    return ClusterError(
        "tuning ran out of memory",
        where=f"a trial of {loop} on {node_of(report)}".removesuffix(" on "),
        detail=report.detail,
        remedy="Decrease tune.max_rows or tune.concurrent, or give the Ray nodes more memory",
    )
