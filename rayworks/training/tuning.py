"""Search the best hyperparameters within a budget, by Ray Tune. A search that is interrupted is resumed."""

from functools import partial
from typing import Any

from rayworks import reuse, storage
from rayworks.data import manifest
from rayworks.errors import ParameterError, TrainingError
from rayworks.metrics import DEFAULT, METRICS
from rayworks.params import TuneOptions
from rayworks.progress import Progress
from rayworks.ray_error import cause, report_of_memory
from rayworks.records import DatasetRef, Trial, TuneResult
from rayworks.reuse import Stage
from rayworks.training import _private, search_space
from rayworks.training import loop as loops
from rayworks.training import search as searches
from rayworks.training.search import BEST, FINISHED, ROUND, Search

MANIFEST = "tune.json"


def fingerprint(dataset: DatasetRef, options: TuneOptions, loop: str, hyperparameters: dict[str, Any]) -> str:
    """Return text that changes whenever the search would: with the data, the options or the code of the loop."""
    relevant = options.model_dump_json(exclude={"concurrent", "cpus_per_trial"})
    return reuse.digest(loops.code_fingerprint(loop), dataset.fingerprint, relevant, sorted(hyperparameters.items()))


def stage(
    dataset: DatasetRef, options: TuneOptions, *, loop: str, hyperparameters: dict[str, Any], storage_uri: str
) -> Stage[TuneResult]:
    """Return the stage that searches hyperparameters for the training loop at the import path ``loop``.

    Its ``create`` raises:
        ParameterError: The search space is invalid, or the loop does not know one of its hyperparameters.
        TrainingError: No trial returned a result.

    Args:
        hyperparameters: The same in all trials, and not searched.
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
    space = search_space.of(options, loop, fixed)
    search = Search(
        dataset=manifest.load(dataset),
        options=options,
        loop=loop,
        metric=DEFAULT[dataset.problem],
        fixed=fixed,
        space=search_space.ray_tune_space(space),
        first=search_space.first_point(space, loops.declarations(loop).defaults),
        uri=uri,
    )
    results, resumed = searches.run(search, progress)
    trials = tuple(trial_record(number, result, search) for number, result in enumerate(results))
    best = best_trial(trials, results, search)
    progress(1.0, f"{len(trials)} trials, the best number {best.number} with {search.metric} {best.metric:.4g}")
    return TuneResult(uri=uri, metric=search.metric, best=best, trials=trials, resumed=resumed)


def best_trial(trials: tuple[Trial, ...], results: list[Any], search: Search) -> Trial:
    """Return the best trial, with all hyperparameters, the fixed ones included.

    Raises:
        ParameterError: No trial returned a result, since the loop refused a hyperparameter.
        TrainingError: No trial returned a result for another reason.
    """
    measured = [(trial, trial.metric) for trial in trials if trial.metric is not None]
    if measured:
        best, _ = METRICS[search.metric].best(measured, lambda pair: pair[1])
        return best.model_copy(update={"hyperparameters": {**search.fixed, **best.hyperparameters}})
    failures = [cause(result.error) for result in results if result.error]
    for failure in failures:
        if isinstance(failure, ParameterError):
            raise failure
    if report := report_of_memory(failures):
        raise searches.out_of_memory(search.loop, report)
    raise TrainingError(
        "no trial returned a result",
        where=search.loop,
        detail=str(failures[0]) if failures else f"within {search.options.seconds:g} s",
        remedy="Increase tune.seconds, or fix what the trials report",
    )


def _error(failure: BaseException) -> str:
    """Return what a person wants to read of a failure: Ray's own report of a lack of memory has a page."""
    report = report_of_memory([failure])
    return f"It ran out of memory: {report.detail}" if report else str(failure)


def trial_record(number: int, result: Any, search: Search) -> Trial:
    """Return the record of a trial from Ray Tune's result."""
    reported: dict[str, Any] = result.metrics or {}
    rounds = int(reported.get(ROUND, 0))
    error = _error(cause(result.error)) if result.error else ""
    finished = reported.get(FINISHED) or rounds >= search.options.rounds
    config = _private.plain(result.config or {})
    return Trial(
        number=number,
        hyperparameters={name: config[name] for name in search.space if name in config},
        metric=reported.get(BEST),
        rounds=rounds,
        seconds=float(reported.get("time_total_s", 0.0)),
        state="failed" if error else "completed" if finished else "stopped early",
        error=error,
    )
