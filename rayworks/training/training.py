# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray has types for a part only.
"""Train a model on a dataset, on one worker or data-parallel, with checkpoints, resumed when a worker is lost.

A worker alone is a Ray task. Several are a group of Ray Train, whose own processes take longer to start than many a
training takes.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from rayworks import capacity, parallel, reuse, storage
from rayworks.data import manifest
from rayworks.errors import ClusterError, RayworksError, TrainingError, named
from rayworks.metrics import DEFAULT, METRICS
from rayworks.params import TrainOptions
from rayworks.progress import Progress
from rayworks.ray_error import MemoryReport, cause, node_of, report_of_memory
from rayworks.records import DatasetRef, ModelRef
from rayworks.reuse import Stage
from rayworks.training import _private, loop, process_group, round_progress, worker
from rayworks.training.worker import Job, Outcome

logger = logging.getLogger(__name__)

MANIFEST = "model_ref.json"
START_ATTEMPTS = 10  # a minute each: time for an autoscaler, and an end where no node comes


def fingerprint(dataset: DatasetRef, options: TrainOptions, hyperparameters: dict[str, Any] | None = None) -> str:
    """Return text that changes whenever the model would: with the data, the options or the code of the loop."""
    relevant = options.model_dump(include={"loop", "rounds", "early_stopping_rounds", "refit"})
    if loop.declarations(options.loop).backend is None:  # each worker trains on its own shard of the rows
        relevant["workers"] = options.workers
    merged = sorted(_merged(options, hyperparameters).items())
    return reuse.digest(loop.code_fingerprint(options.loop), dataset.fingerprint, sorted(relevant.items()), merged)


def _merged(options: TrainOptions, tuned: dict[str, Any] | None) -> dict[str, Any]:
    chosen = (loop.without_aliases(options.loop, each) for each in (tuned or {}, options.hyperparameters))
    return {name: value for each in chosen for name, value in each.items()}


def stage(
    dataset: DatasetRef,
    options: TrainOptions,
    *,
    storage_uri: str,
    hyperparameters: dict[str, Any] | None = None,
) -> Stage[ModelRef]:
    """Return the stage that trains a model on ``dataset``.

    Its ``create`` raises:
        TrainingError, ParameterError: The loop failed, with its message.
        ClusterError: Ray has no capacity for the workers.

    Args:
        hyperparameters: The result of tuning. Those of ``options`` override them.
    """
    key = fingerprint(dataset, options, hyperparameters)
    uri = reuse.location(storage_uri, "models", dataset.name, key)
    run_uri = reuse.location(storage_uri, "training", dataset.name, key)
    manifest_uri = storage.join(uri, MANIFEST)

    def create(progress: Progress) -> ModelRef:
        merged = _merged(options, hyperparameters)
        model = _train(dataset, options, merged, uri=uri, run_uri=run_uri, progress=progress)
        storage.write_record(manifest_uri, model)
        storage.delete(run_uri)
        return model

    return Stage(partial(reuse.find_record, manifest_uri, ModelRef), create)


def _train(
    dataset: DatasetRef,
    options: TrainOptions,
    hyperparameters: dict[str, Any],
    *,
    uri: str,
    run_uri: str,
    progress: Progress,
) -> ModelRef:
    started = time.monotonic()
    backend, metric = loop.declarations(options.loop).backend, DEFAULT[dataset.problem]
    cpus = _cpus_per_worker(options)
    job = Job(manifest.load(dataset), options, hyperparameters, metric, cpus, uri, run_uri)
    progress(0.0, f"starting {options.workers} worker{'s' if options.workers > 1 else ''} with {cpus:g} CPUs each")
    with round_progress.shown(run_uri, metric=metric, progress=progress):
        outcome = _fit(job, backend)
    if not outcome.curve:
        raise loop.no_report(options.loop)
    best = METRICS[metric].best(outcome.curve, lambda point: point.validation)
    refit = f"; then {outcome.refit_rounds} on training and validation rows" if outcome.refit_rounds else ""
    found = f"{len(outcome.curve)} rounds, the best {best.round} with validation {metric} {best.validation:.4g}"
    progress(1.0, found + refit)
    return ModelRef(
        uri=uri,
        name=dataset.name,
        dataset_uri=dataset.uri,
        dataset_fingerprint=dataset.fingerprint,
        loop=options.loop,
        hyperparameters=hyperparameters,
        metric=metric,
        validation=best.validation,
        best_round=best.round,
        earlier_best_round=outcome.earlier_best_round,
        refit_rounds=outcome.refit_rounds,
        seconds=time.monotonic() - started,
        workers=options.workers,
        restarts=outcome.restarts,
        curve=outcome.curve,
    )


def _cpus_per_worker(options: TrainOptions) -> float:
    """Return the CPUs of a worker: those of the options, or an equal share.

    Raises:
        ClusterError: Ray has no capacity for the workers, and no autoscaler may add nodes.
    """
    import ray

    nodes = [node.get("CPU", 0) for node in capacity.nodes_now()]
    gpus = float(cast(Any, ray.cluster_resources)().get("GPU", 0))
    cpus = options.cpus_per_worker or capacity.equal_share(nodes, options.workers)
    fit = capacity.fitting_workers(nodes, cpus) >= options.workers and gpus >= options.gpus_per_worker * options.workers
    requests = capacity.requests_of({"num_cpus": cpus, "num_gpus": options.gpus_per_worker})
    if not fit and not capacity.may_come(requests, capacity.nodes_to_come()):
        raise ClusterError(
            f"Ray has no capacity for {options.workers} workers of {cpus:g} CPUs and {options.gpus_per_worker:g} GPUs",
            where=f"{sum(nodes):g} CPUs in total, {max(nodes, default=0):g} on the largest node, {gpus:g} GPUs",
            remedy="Decrease train.workers or train.cpus_per_worker",
        )
    return cpus


def _fit(job: Job, backend: str | None) -> Outcome:
    """Run the job on the workers, and return the outcome of rank 0.

    Training that failed is started again, and continues from its last checkpoint; if it ran out of memory, only with
    more.

    Raises:
        RayworksError: The failure, without Ray's wrappers.
    """
    worker.forget_bad_data(job.run_uri)
    failures, memory, is_alone = 0, job.options.memory_per_worker, job.options.workers == 1
    while True:
        try:
            outcome = _train_alone(job, memory) if is_alone else _train_in_group(job, backend, memory)
        except Exception as error:
            of_workers = [error] if is_alone else _private.worker_failures(error)
            # Under pressure Ray also ends its own actors, so the error may be any.
            if report := report_of_memory([*of_workers, error]):
                memory = _more_memory(job.options, memory, report, error)
                logger.warning("Training resumes with %g GiB per worker: %s", memory, report.detail)
                continue
            failures += 1
            if not of_workers or failures > job.options.max_failures:
                raise _failure(job, of_workers or [error], failures) from error
            logger.info("Training resumes from its last checkpoint: a worker was lost")
            continue
        if outcome.error:
            raise outcome.error
        return outcome


def _failure(job: Job, errors: Sequence[BaseException], starts: int) -> RayworksError:
    causes = [cause(error) for error in errors]
    for failure in causes:
        if isinstance(failure, RayworksError):
            return failure
    return TrainingError(
        "training failed",
        where=job.options.loop,
        detail=named(causes[0]),
        remedy=f"It was started {starts} time{'s' if starts > 1 else ''}; see the workers' logs",
    )


def _more_memory(options: TrainOptions, memory: float | None, report: MemoryReport, error: Exception) -> float:
    """Return how much memory each worker gets next, in GiB.

    Raises:
        ClusterError: The options do not allow more. Another start with the same memory would end in the same way.
    """
    most = options.max_memory_per_worker
    if memory and most and memory < most:
        return min(2 * memory, most)
    raise ClusterError(
        "training ran out of memory",
        where=f"a worker of {options.loop} on {node_of(report)}".removesuffix(" on "),
        detail=report.detail + (f"; each worker had requested {memory:g} GiB" if memory else ""),
        remedy="Increase train.workers, so that each holds fewer rows; or set train.memory_per_worker to what a worker "
        "needs, and train.max_memory_per_worker to what the nodes have",
    ) from error


def _train_alone(job: Job, memory: float | None) -> Outcome:
    gpus = {"num_gpus": job.options.gpus_per_worker} if job.options.gpus_per_worker else {}
    requests: dict[str, Any] = {"num_cpus": job.cpus, **gpus, **({"memory": memory * 2**30} if memory else {})}

    def raised(_: Job, error: Exception) -> Outcome:
        raise error

    (outcome,) = parallel.map_unordered(
        worker.train, [job], on_failure=raised, interrupts=True, max_retries=0, **requests
    )
    return outcome


def _train_in_group(job: Job, backend: str | None, memory: float | None) -> Outcome:
    _private.silence("ray.train")
    _private.poll_workers_often()
    _private.stay_in_working_directory()
    return cast(Outcome, _trainer(job, backend, memory).fit().return_value)


def _trainer(job: Job, backend: str | None, memory: float | None) -> Any:
    from ray.train import LoggingConfig, RunConfig, ScalingConfig

    options, gpus, (files, path) = job.options, job.options.gpus_per_worker, storage.filesystem(job.run_uri)
    return _private.data_parallel_trainer()(
        worker.train_in_group,
        train_loop_config={"job": job},
        backend_config=process_group.config(backend, options.workers),
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.cpus}
            | ({"GPU": gpus} if gpus else {})
            | ({"memory": memory * 2**30} if memory else {}),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=files,
            failure_config=_private.failure_config(START_ATTEMPTS),
            # It would log each state of the training.
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
