# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray and pyarrow bring types for a part only.
"""A dataset to a model, by Ray Train: data-parallel, with checkpoints, resumed when a worker is lost."""

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter

from rayworks import __version__, capacity, import_path, reuse, storage
from rayworks.data import manifest, split_rows
from rayworks.errors import ClusterError, DataError, ParameterError, RayworksError, StorageError, TrainingError
from rayworks.models import tabular
from rayworks.params import TrainOptions
from rayworks.progress import Progress
from rayworks.ray_error import cause
from rayworks.records import CurvePoint, Dataset, DatasetRef, ModelRef, Record, SplitName
from rayworks.reuse import Stage
from rayworks.training import loop

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MANIFEST = "model_ref.json"
CURVE = "curve.json"
BAD_DATA = "bad_data.json"
LOOK_SECONDS = (
    0.5  # between two looks of Ray Train's controller at the workers: so late it sees their end. Its default: 2
)
REPORT_SECONDS = 2.0  # between two reports that are only shown; Ray Train takes one at each look
START_ATTEMPTS = 10  # a minute each (Train's default): time for an autoscaler, and no hang where no node comes
ROUNDS_PER_DECISION = 5  # how often the workers agree, by a broadcast, whether a checkpoint is due
CURVES = TypeAdapter(list[CurvePoint])


class Starts(Record):
    """How often the workers were started, for a model that is not finished."""

    count: int


class BadData(Record):
    """A ``DataError`` of one of several workers, for all of them to find when they are started again."""

    what: str
    where: str
    detail: str
    remedy: str


class RoundsDone(Record):
    """How far the training is, for the coordinator to show."""

    round: int
    validation: float


def fingerprint(dataset: DatasetRef, options: TrainOptions, hyperparameters: dict[str, Any] | None = None) -> str:
    """A text that changes whenever the model would: by the data, the options or the code of the loop."""
    # How many workers train, and how often they may fail, is no property of the model.
    own = options.model_dump(include={"loop", "rounds", "early_stopping_rounds"})
    merged = {**(hyperparameters or {}), **options.hyperparameters}
    code = import_path.fingerprint(options.loop)
    return reuse.digest(__version__, dataset.fingerprint, sorted(own.items()), sorted(merged.items()), code)


def stage(
    dataset: DatasetRef,
    options: TrainOptions,
    *,
    storage_uri: str,
    hyperparameters: dict[str, Any] | None = None,
) -> Stage[ModelRef]:
    """Return the stage that trains a model on ``dataset``.

    Args:
        hyperparameters: The result of tuning. Those of ``options`` override them.

    Its ``create`` raises:
        TrainingError, ParameterError: The loop failed, with its message.
        ClusterError: Ray has no capacity for the workers.
    """
    merged = {**(hyperparameters or {}), **options.hyperparameters}
    key = fingerprint(dataset, options, merged)
    uri = reuse.location(storage_uri, "models", dataset.name, key)
    run_uri = reuse.location(storage_uri, "training", dataset.name, key)
    manifest_uri = storage.join(uri, MANIFEST)

    def create(progress: Progress) -> ModelRef:
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
    import_path.load(options.loop)
    started = time.monotonic()
    cpus = _cpus_per_worker(options)
    job = _Job(manifest.load(dataset), options, hyperparameters, cpus, uri, run_uri)
    progress(0.0, f"starting {options.workers} worker{'s' if options.workers > 1 else ''} with {cpus:g} CPUs each")
    with _showing(storage.join(run_uri, "rounds.json"), options.rounds, job.dataset, progress):
        outcome = _fit(job)
    curve = tuple(CurvePoint.model_validate(point) for point in outcome["curve"])
    if not curve:
        raise TrainingError(
            "the training loop reported nothing", where=options.loop, remedy="Call context.report after each round"
        )
    best = min(curve, key=lambda point: point.validation)
    metric = loop.METRIC[dataset.problem]
    progress(1.0, f"{len(curve)} rounds, the best {best.round} with validation {metric} {best.validation:.4g}")
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
        seconds=time.monotonic() - started,
        workers=options.workers,
        restarts=outcome["restarts"],
        curve=curve,
    )


def _cpus_per_worker(options: TrainOptions) -> float:
    """The CPUs of a worker: as asked, or an equal share.

    Raises:
        ClusterError: Ray cannot hold the workers, and no autoscaler will bring more nodes.
    """
    import ray

    nodes = [float(node["Resources"].get("CPU", 0)) for node in cast(Any, ray.nodes)() if node["Alive"]]
    gpus = float(cast(Any, ray.cluster_resources)().get("GPU", 0))
    cpus = options.cpus_per_worker or capacity.equal_share(nodes, options.workers)
    has_room = capacity.places(nodes, cpus) >= options.workers and gpus >= options.gpus_per_worker * options.workers
    if not has_room and not capacity.may_grow():
        raise ClusterError(
            f"Ray has no room for {options.workers} workers of {cpus:g} CPUs and {options.gpus_per_worker:g} GPUs",
            where=f"{sum(nodes):g} CPUs in all, {max(nodes, default=0):g} on the largest node, {gpus:g} GPUs",
            remedy="Set train.workers or train.cpus_per_worker lower",
        )
    return cpus


@dataclass(frozen=True)
class _Job:
    """What each worker must know."""

    dataset: Dataset
    options: TrainOptions
    hyperparameters: dict[str, Any]
    cpus: float
    uri: str  # of the model
    run_uri: str  # of checkpoints and progress, gone when the model is there


class _TrainContext(loop.LoopContext):
    """The context of a Ray Train worker."""

    def __init__(self, job: _Job) -> None:
        import ray.train

        place = ray.train.get_context()
        super().__init__(
            job.dataset,
            job.hyperparameters,
            rounds=job.options.rounds,
            patience=job.options.early_stopping_rounds,
            threads=max(1, int(job.cpus)),
            rank=place.get_world_rank(),
            world_size=place.get_world_size(),
        )
        self._job = job
        self._checkpoint = self._fetched()
        curve = self._checkpoint / CURVE if self._checkpoint else None
        self.curve: list[CurvePoint] = CURVES.validate_json(curve.read_bytes()) if curve else []
        self.restarts = self._earlier_starts() if self.rank == 0 else 0
        self._checkpointed = self._shown = time.monotonic()

    def _fetched(self) -> Path | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return Path(checkpoint.to_directory(tempfile.mkdtemp(prefix="rayworks-"))) if checkpoint else None

    def _earlier_starts(self) -> int:
        uri = storage.join(self._job.run_uri, "starts.json")
        earlier = storage.read_record(uri, Starts).count if storage.exists(uri) else 0
        storage.write_record(uri, Starts(count=earlier + 1))
        return earlier

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        for features, labels in split_rows.encoded(
            self._job.dataset, split, rank=self.rank, world_size=self.world_size
        ):
            for start in range(0, len(labels), rows):
                yield features.iloc[start : start + rows], labels[start : start + rows]

    def restore(self) -> Path | None:
        return self._checkpoint

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        validation = loop.check_finite(round, validation)
        self.curve.append(CurvePoint(round=round, train=train, validation=validation))
        now = time.monotonic()
        if self.rank == 0 and now - self._shown > REPORT_SECONDS:
            self._shown = now
            done = RoundsDone(round=round, validation=validation)
            storage.write_record(storage.join(self._job.run_uri, "rounds.json"), done)
        if save is not None and self._is_due(round, now - self._checkpointed > self._job.options.checkpoint_seconds):
            self._write_checkpoint(save)
            self._checkpointed = time.monotonic()

    def _is_due(self, round: int, late: bool) -> bool:
        """Whether all workers write a checkpoint now; they must agree, since Ray Train waits for each to report."""
        if self.world_size == 1:
            return late
        import ray.train.collective

        return round % ROUNDS_PER_DECISION == 0 and bool(ray.train.collective.broadcast_from_rank_zero(late))

    def _write_checkpoint(self, save: Callable[[Path], None]) -> None:
        import ray.train

        with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
            checkpoint = None
            if self.rank == 0:
                save(Path(name))
                (Path(name) / CURVE).write_bytes(CURVES.dump_json(self.curve))
                checkpoint = ray.train.Checkpoint(name)
            ray.train.report({"round": self.curve[-1].round}, checkpoint=checkpoint)


def _note(job: _Job, error: DataError) -> None:
    bad = BadData(what=error.what, where=error.where, detail=error.detail, remedy=error.remedy)
    storage.write_record(storage.join(job.run_uri, BAD_DATA), bad)


def _noted(job: _Job) -> DataError | None:
    uri = storage.join(job.run_uri, BAD_DATA)
    return DataError(**storage.read_record(uri, BadData).model_dump()) if storage.exists(uri) else None


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """What a Ray Train worker does: run the loop; rank 0 saves the model."""
    job = cast(_Job, config["job"])
    context = _TrainContext(job)
    if error := _noted(job):
        return {"error": error}
    try:
        model = loop.run(job.options.loop, context)
        if context.rank == 0:
            facts = {"loop": job.options.loop, "dataset_fingerprint": job.dataset.fingerprint, "rayworks": __version__}
            tabular.save(model, job.uri, dataset=job.dataset, metadata=facts)
    except RayworksError as error:
        if context.world_size > 1 and not isinstance(error, (ParameterError, DataError)):
            raise  # a peer that died makes any loop fail
        if context.world_size > 1 and isinstance(error, DataError):
            _note(job, error)  # the others may have none, and wait for this one: all are started again, and find this
            raise
        return {"error": error}  # it would fail again, for all of them: no restart
    return {"curve": [point.model_dump() for point in context.curve], "restarts": context.restarts}


def _fit(job: _Job) -> dict[str, Any]:
    """Run ``_work`` on the workers.

    Raises:
        RayworksError: What went wrong, without Ray's wrappers.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.xgboost.config import XGBoostConfig

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(LOOK_SECONDS))  # Ray Train has no argument for it
    storage.delete(storage.join(job.run_uri, BAD_DATA))  # of an earlier attempt
    options, gpus, (files, path) = job.options, job.options.gpus_per_worker, storage.filesystem(job.run_uri)
    trainer = DataParallelTrainer(
        _work,
        train_loop_config={"job": job},
        # XGBoost's collective is there for loops that use it, and does no harm to those that do not.
        backend_config=XGBoostConfig() if options.workers > 1 else None,
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=options.max_failures, controller_failure_limit=START_ATTEMPTS),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        outcome = cast(dict[str, Any], trainer.fit().return_value)
    except Exception as error:
        failures = getattr(error, "worker_failures", {})
        known = [cause(failure) for failure in failures.values()] or [cause(error)]
        for failure in known:
            if isinstance(failure, RayworksError):
                raise failure from error
        raise TrainingError(
            "training failed",
            where=options.loop,
            detail=f"{type(known[0]).__name__}: {str(known[0]).splitlines()[0]}",
            remedy=f"It was started {options.max_failures + 1} times; see the workers' logs",
        ) from error
    if "error" in outcome:
        raise outcome["error"]
    return outcome


@contextlib.contextmanager
def _showing(uri: str, rounds: int, dataset: Dataset, progress: Progress) -> Generator[None]:
    """Show what rank 0 writes to ``uri``, until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(REPORT_SECONDS):
            with contextlib.suppress(StorageError):  # not written yet
                done = storage.read_record(uri, RoundsDone)
                value = f"{loop.METRIC[dataset.target.problem]} {done.validation:.4g}"
                progress(done.round / rounds, f"round {done.round} of at most {rounds}, validation {value}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
