# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray has types for a part only.
"""What runs on each worker of a training: the loop in its context, with checkpoints. Rank 0 saves the model."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayworks import __version__, storage
from rayworks.data import split_rows
from rayworks.errors import DataError, ParameterError, RayworksError, TransferError
from rayworks.metrics import METRICS
from rayworks.models import stored
from rayworks.models.contract import Model
from rayworks.params import TrainOptions
from rayworks.records import CurvePoint, Dataset, Record, SplitName
from rayworks.training import checkpoint, loop, round_progress

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PASSES = "passes.json"
STARTS = "starts.json"
BAD_DATA = "bad_data.json"


@dataclass(frozen=True)
class Job:
    """What each worker must know."""

    dataset: Dataset
    options: TrainOptions
    hyperparameters: dict[str, Any]
    metric: str
    """The name of what the loop reports."""
    cpus: float
    """Per worker."""
    uri: str
    """The folder of the model."""
    run_uri: str
    """The folder of checkpoints and progress, deleted when the model is complete."""


@dataclass(frozen=True)
class Outcome:
    """What a worker returns: the learning curve, or an error that would fail a restart in the same way."""

    curve: tuple[CurvePoint, ...] = ()
    earlier_best_round: int | None = None
    refit_rounds: int | None = None
    restarts: int = 0
    error: RayworksError | None = None


class Starts(Record):
    """How often the workers of a training were started."""

    count: int


class Passes(Record):
    """In a checkpoint: the learning curves of the passes that validate, and the rounds of the refit once it began."""

    curves: tuple[tuple[CurvePoint, ...], ...]
    refit_rounds: int | None


class BadData(Record):
    """A ``DataError`` of one of several workers, stored for all of them to raise when they are restarted."""

    what: str
    where: str
    detail: str
    remedy: str


class WorkerContext(loop.LoopContext):
    """The context of a training loop on a worker.

    The loop runs once for each pass, see :meth:`start_next_pass`: on the training rows, where rows are split by time
    also on an earlier part of these, and in the refit on training and validation rows together.
    """

    def __init__(self, job: Job, rank: int, world_size: int) -> None:
        super().__init__(
            job.dataset,
            dict(job.hyperparameters),
            metric=job.metric,
            rounds=job.options.rounds,
            patience=job.options.early_stopping_rounds,
            threads=max(1, int(job.cpus)),
            rank=rank,
            world_size=world_size,
        )
        self._job = job
        # The same on all ranks: rank 0 replaces it only in a round, for which a process group needs all of them.
        self._checkpoint = checkpoint.restore(job.run_uri)
        stored_passes = self._checkpoint / PASSES if self._checkpoint else None
        passes = Passes.model_validate_json(stored_passes.read_bytes()) if stored_passes else None
        self.curves: list[list[CurvePoint]] = [list(curve) for curve in passes.curves] if passes else [[]]
        self.refit_rounds: int | None = None
        if passes and passes.refit_rounds:
            self._refit(passes.refit_rounds)
        looks_for_rounds = job.options.refit and self.refit_rounds is None
        self._origin = split_rows.earlier_origin(job.dataset) if looks_for_rounds else None
        self.restarts = self._count_start() if self.rank == 0 else 0
        self._checkpointed = self._shown = time.monotonic()

    def _count_start(self) -> int:
        """Count this start of the workers, and return the number of starts before it."""
        uri = storage.join(self._job.run_uri, STARTS)
        earlier = storage.read_record(uri, Starts).count if storage.exists(uri) else 0
        storage.write_record(uri, Starts(count=earlier + 1))
        return earlier

    @property
    def is_earlier(self) -> bool:
        """Whether this pass is that on an earlier part of the training rows."""
        return self.refit_rounds is None and len(self.curves) == 2

    def best_round(self, number: int) -> int | None:
        """Return the best round of a pass; None if there was no such pass."""
        if number >= len(self.curves):
            return None
        return METRICS[self.metric].best(self.curves[number], lambda point: point.validation).round

    def start_next_pass(self) -> None:
        """Begin the pass on earlier rows, if the dataset has an earlier origin; then the refit.

        Raises:
            TrainingError: The loop reported no round.
        """
        if not self.curves[-1]:
            raise loop.no_report(self._job.options.loop)
        self._checkpoint, self.hyperparameters = None, dict(self._job.hyperparameters)
        if self._origin and not self.is_earlier:
            self.curves.append([])
        else:
            self._refit(self._rounds_of_refit())

    def _rounds_of_refit(self) -> int:
        """Return the rounds that all rows need: as many per row as the passes needed on average.

        Where data drift, the newest rows alone say too little: on the flights the best round of one validation differs
        by a fifth between seeds.
        """
        import ray.train.collective

        train, validation = (self._job.dataset.split(name).rows for name in ("train", "validation"))
        rows_of_passes = [train, *([self._origin.train] if self._origin else [])]
        best = [cast(int, self.best_round(number)) / rows for number, rows in enumerate(rows_of_passes)]
        rounds = math.ceil(statistics.mean(best) * (train + validation))
        if self.world_size == 1:
            return rounds
        return ray.train.collective.broadcast_from_rank_zero(rounds)  # each may have seen other validation metrics

    def _refit(self, rounds: int) -> None:
        self.refit_rounds = self.rounds = self.early_stopping_rounds = rounds

    def batches(self, split: SplitName, rows: int = 65_536) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        """Yield this worker's shard of a split, of the rows of this pass."""
        for features, labels in self._shard(split):
            for start in range(0, len(labels), rows):
                yield features.iloc[start : start + rows], labels[start : start + rows]

    def _shard(self, split: SplitName) -> "Iterator[tuple[pd.DataFrame, np.ndarray]]":
        dataset, rank, world_size = self._job.dataset, self.rank, self.world_size
        if self._origin and self.is_earlier and split != "test":
            return split_rows.encoded_at(dataset, self._origin, split, rank=rank, world_size=world_size)
        splits: tuple[SplitName, ...] = ("train", "validation") if split == "train" and self.refit_rounds else (split,)
        return chain.from_iterable(
            split_rows.encoded(dataset, name, rank=rank, world_size=world_size) for name in splits
        )

    def restore(self) -> Path | None:
        """Return the folder of the last checkpoint, if this is a restart."""
        return self._checkpoint

    def report(
        self, round: int, *, validation: float, train: float | None = None, save: Callable[[Path], None] | None = None
    ) -> None:
        """Add a round to the learning curve of the pass, show it, and write a checkpoint if one is due.

        The refit has no curve: it has learned from the validation rows.
        """
        validation = loop.check_finite(round, validation)
        if self.refit_rounds is None:
            self.curves[-1].append(CurvePoint(round=round, train=train, validation=validation))
        if self.rank != 0:
            return
        now = time.monotonic()
        if now - self._shown > round_progress.SECONDS:
            self._shown = now
            shown = validation if self.refit_rounds is None else None
            last = round_progress.LastRound(round=round, rounds=self.rounds, validation=shown, earlier=self.is_earlier)
            round_progress.write(self._job.run_uri, last)
        if save is not None and now - self._checkpointed > self._job.options.checkpoint_seconds:
            self._write_checkpoint(save)
            self._checkpointed = time.monotonic()

    def _write_checkpoint(self, save: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
            save(Path(name))
            curves = tuple(tuple(curve) for curve in self.curves)
            passes = Passes(curves=curves, refit_rounds=self.refit_rounds)
            (Path(name) / PASSES).write_text(passes.model_dump_json())
            checkpoint.write(self._job.run_uri, Path(name))


def train_in_group(config: dict[str, Any]) -> Outcome:
    """Run the loop of the job in ``config["job"]`` on this worker of Ray Train; see :func:`train`."""
    import ray.train

    worker = ray.train.get_context()
    return train(cast(Job, config["job"]), worker.get_world_rank(), worker.get_world_size())


def train(job: Job, rank: int = 0, world_size: int = 1) -> Outcome:
    """Run the loop of the job on this worker; rank 0 saves the model.

    Raises:
        RayworksError: Something that a restart of all workers may fix, or that all of them must see.
    """
    context = WorkerContext(job, rank, world_size)
    if error := _stored_bad_data(job):
        return Outcome(error=error)
    try:
        model = _fit(job, context)
    except RayworksError as error:
        if context.world_size > 1 and not isinstance(error, (ParameterError, TransferError, DataError)):
            raise  # any loop fails when another worker is lost
        if context.world_size > 1 and isinstance(error, DataError):
            _store_bad_data(job, error)  # others may wait for this worker: all restart, and each reads the error
            raise
        return Outcome(error=error)  # every worker fails in the same way, and would again
    if context.rank == 0:
        facts = {"loop": job.options.loop, "dataset_fingerprint": job.dataset.fingerprint, "rayworks": __version__}
        try:
            stored.save(model, job.uri, dataset=job.dataset, metadata=facts)
        except RayworksError as error:
            return Outcome(error=error)  # training again would make the same model
    return Outcome(tuple(context.curves[0]), context.best_round(1), context.refit_rounds, context.restarts)


def _fit(job: Job, context: WorkerContext) -> Model:
    """Run the loop; unless the options say otherwise, to find the rounds, and with these on all rows.

    A restart from a checkpoint does not repeat the passes before it.
    """
    while job.options.refit and context.refit_rounds is None:
        loop.run(job.options.loop, context)  # nothing holds the model: its memory is needed
        context.start_next_pass()
    return loop.run(job.options.loop, context)


def forget_bad_data(run_uri: str) -> None:
    """Delete the error of an earlier attempt: the data may be fixed."""
    storage.delete(storage.join(run_uri, BAD_DATA))


def _store_bad_data(job: Job, error: DataError) -> None:
    bad = BadData(what=error.what, where=error.where, detail=error.detail, remedy=error.remedy)
    storage.write_record(storage.join(job.run_uri, BAD_DATA), bad)


def _stored_bad_data(job: Job) -> DataError | None:
    uri = storage.join(job.run_uri, BAD_DATA)
    return DataError(**storage.read_record(uri, BadData).model_dump()) if storage.exists(uri) else None
