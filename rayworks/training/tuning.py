"""Search the best hyperparameters within a budget. A search that is interrupted is resumed."""

import math
import statistics
from datetime import UTC, datetime, timedelta
from functools import partial

from rayworks import reuse, storage
from rayworks.data import manifest
from rayworks.metrics import DEFAULT, METRICS
from rayworks.params import TrainOptions, TuneOptions
from rayworks.progress import Progress
from rayworks.records import DatasetRef, Trial, TuneResult
from rayworks.reuse import Stage
from rayworks.training import loop as loops
from rayworks.training import search as searches
from rayworks.training import search_space
from rayworks.training.search import Search

MANIFEST = "tune.json"


def fingerprint(dataset: DatasetRef, options: TuneOptions, train: TrainOptions) -> str:
    """Return text that changes whenever the search would: with the data, the options or the code of the loop."""
    relevant = options.model_dump_json(exclude={"concurrent", "cpus_per_trial"})
    training = train.model_dump_json(include={"rounds", "early_stopping_rounds"})
    fixed = sorted(train.hyperparameters.items())
    return reuse.digest(loops.code_fingerprint(train.loop), dataset.fingerprint, relevant, training, fixed)


def stage(dataset: DatasetRef, options: TuneOptions, train: TrainOptions, *, storage_uri: str) -> Stage[TuneResult]:
    """Return the stage that searches hyperparameters for the training that ``train`` describes.

    The hyperparameters of ``train`` are the same in all trials, and not searched. Its ``create`` raises:
        ParameterError: The search space is invalid, or the loop does not know one of its hyperparameters.
        ClusterError: No node of Ray has the CPUs of a trial.
        TrainingError: No trial returned a result.
    """
    key = fingerprint(dataset, options, train)
    uri = reuse.location(storage_uri, "tuning", dataset.name, key)
    manifest_uri = storage.join(uri, MANIFEST)

    def create(progress: Progress) -> TuneResult:
        result = _tune(dataset, options, train, uri, progress)
        storage.write_record(manifest_uri, result)
        return result

    return Stage(partial(reuse.find_record, manifest_uri, TuneResult), create)


def _tune(dataset: DatasetRef, options: TuneOptions, train: TrainOptions, uri: str, progress: Progress) -> TuneResult:
    fixed = loops.without_aliases(train.loop, train.hyperparameters)
    space = search_space.of(options, train.loop, fixed)
    search = Search(
        dataset=manifest.load(dataset),
        options=options,
        train=train,
        metric=DEFAULT[dataset.problem],
        fixed=fixed,
        space=space,
        first=search_space.first_point(space, loops.declarations(train.loop).defaults),
        uri=uri,
    )
    trials, resumed, failures = searches.run(search, progress)
    if all(trial.metric is None for trial in trials):
        raise searches.failed(search, failures)
    best = best_trial(trials, search.metric, has_defaults=search.first is not None)
    progress(1.0, f"{len(trials)} trials, the best number {best.number} with {search.metric} {best.metric:.4g}")
    complete = best.model_copy(update={"hyperparameters": {**search.fixed, **best.hyperparameters}})
    return TuneResult(
        uri=uri,
        dataset_uri=dataset.uri,
        loop=train.loop,
        ended=datetime.now(UTC),
        metric=search.metric,
        best=complete,
        trials=trials,
        resumed=resumed,
    )


def find(uri: str) -> TuneResult | None:
    """Return the result of a search by its URI; None if it is no longer stored."""
    return reuse.find_record(storage.join(uri, MANIFEST), TuneResult)


def is_due(last: TuneResult | None, loop: str, days: float | None, now: datetime) -> bool:
    """Return whether to search again; if not, what the last search found is still used.

    Args:
        last: The search that the champion's hyperparameters come from. None: there was none.
        loop: Import path of the training loop. What was found for another one says nothing about it.
        days: After how many days a search is too old. None: never.
        now: The time, with its time zone.
    """
    if last is None or last.loop != loop:
        return True
    return days is not None and now - last.ended >= timedelta(days=days)


def best_trial(trials: tuple[Trial, ...], metric: str, *, has_defaults: bool) -> Trial:
    """Return the trial to train with. At least one must have completed.

    The best of many trials looks better than it is, by what chance adds. So the defaults, which are the first trial,
    only yield to a trial that is better by more than one standard error of the paired differences on the same blocks of
    rows (the one-standard-error rule, Breiman et al., 1984, which prefers the simpler model).

    Args:
        has_defaults: Whether the trial with number 0 has the defaults of the loop.
    """
    definition = METRICS[metric]
    completed = [(trial, trial.metric) for trial in trials if trial.metric is not None]
    best, _ = definition.best(completed, lambda pair: pair[1])
    defaults = next((trial for trial, _ in completed if trial.number == 0), None) if has_defaults else None
    if defaults is None or defaults is best or len(defaults.values) != len(best.values):
        return best
    improvements = list(map(definition.improvement, best.values, defaults.values))
    if len(improvements) < 2:
        return best
    error = statistics.stdev(improvements) / math.sqrt(len(improvements))
    return best if statistics.mean(improvements) > error else defaults
