"""Decide what a watch does next, and which objects a retraining learns from. Pure, but for listing the source.

At most one batch is open at a time: what arrives while a model is retrained waits for the next batch. So two
retrainings of one watch never run beside each other, and many small arrivals cost one retraining.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from rayworks import storage
from rayworks.data import reading
from rayworks.errors import DataError, ParameterError, RayworksError, StorageError
from rayworks.monitoring.arrivals import Batch, BatchResult, Ledger, RunState
from rayworks.monitoring.drift_report import DriftReport
from rayworks.monitoring.options import RetrainOptions, WatchOptions, Window
from rayworks.params import ProcessOptions
from rayworks.records import SourceFile


@dataclass(frozen=True)
class Wait:
    """There is nothing to do now."""

    reason: str


@dataclass(frozen=True)
class Start:
    """Start a flow run for a batch."""

    batch: Batch
    attempt: int


Step = Wait | Start | Batch | BatchResult
"""A ``Batch`` or a ``BatchResult`` is to be added to the ledger."""


def listed(source: str, file_format: Literal["auto"] | reading.Format = "auto") -> tuple[SourceFile, ...]:
    """Return the data files at ``source``, a folder or a glob; none where nothing exists yet.

    Args:
        file_format: As for ``process``: other files are ignored, unless a format is named.

    Raises:
        StorageError: It cannot be listed.
    """
    try:
        files = storage.files_in(source)
    except StorageError as error:
        remedy = f"{error.remedy}. Or correct the parameter Source"
        raise StorageError("the source cannot be listed", where=source, detail=error.detail, remedy=remedy) from error
    return tuple(
        SourceFile(uri=uri, bytes=info.size, modified=info.mtime)
        for uri, info in files
        if info.size and (file_format != "auto" or reading.format_of(uri))
    )


def check_target(objects: Iterable[SourceFile], target: str, options: ProcessOptions) -> None:
    """Check that the first file has the target. One that cannot be read is for a retraining to explain.

    Raises:
        ParameterError: It has no such column.
    """
    first = next(iter(objects), None)
    if first is None:
        return
    try:
        chunks = reading.chunks(reading.source_files(first.uri, options.format), options.encoding)
        batch = next(reading.batches(chunks[0]), None) if chunks else None
    except RayworksError:
        return
    if batch is not None and target not in batch.rows.columns:
        raise ParameterError(
            "there is no such column",
            where=target,
            detail=f"the columns of {first.uri} are {', '.join(batch.rows.columns[:30])}",
            remedy="Correct the parameter Target",
        )


def next_step(
    ledger: Ledger, objects: Iterable[SourceFile], run: RunState | None, options: WatchOptions, now: datetime
) -> Step:
    """Return the next step of a watch. It has been taken when the ledger says so; then there is another one.

    Args:
        objects: What is at the source.
        run: The flow run of the last attempt for the open batch; None if there was none.
        now: The time, with its time zone.
    """
    if batch := ledger.open_batch:
        return _step_of(batch, ledger, run, options, now)
    known = ledger.known
    new = [file for file in objects if file not in known]
    complete = [file for file in new if _is_settled(file, options, now)]
    if not ledger.batches and options.first == "history":
        return Batch(number=0, objects=tuple(complete), created=now)
    if complete:
        number = ledger.batches[-1].number + 1 if ledger.batches else 1
        return Batch(number=number, objects=tuple(complete), created=now)
    if new:
        return Wait(f"{_counted(len(new))} may still be written")
    return Wait(f"nothing has arrived{_since(ledger)}" if known else "nothing is at the source yet")


def _step_of(batch: Batch, ledger: Ledger, run: RunState | None, options: WatchOptions, now: datetime) -> Step:
    """Return the next step of the open batch."""
    if batch.number == 0:
        return BatchResult(batch=0, state="history", ended=now)
    attempts = len(ledger.attempts.get(batch.number, ()))
    if run is None:
        return Start(batch, attempts + 1)
    if run.kind == "active":
        return Wait(f"batch {batch.number} is being learned")
    if run.kind == "cancelled":
        return BatchResult(batch=batch.number, state="failed", reason="its run was cancelled", ended=now)
    reason = run.message or "its run ended without a result"
    if attempts >= options.attempts:
        return BatchResult(batch=batch.number, state="failed", reason=reason, ended=now)
    again = (run.ended or now) + timedelta(seconds=options.retry_seconds) * 2 ** (attempts - 1)
    if now < again:
        return Wait(f"batch {batch.number} failed, and is tried again at {again:%H:%M:%S} UTC: {reason}")
    return Start(batch, attempts + 1)


def _since(ledger: Ledger) -> str:
    """Return what was decided about the last batch, for people."""
    last = ledger.results[ledger.batches[-1].number]
    ending = {"done": "", "skipped": "no retraining, ", "failed": "failed: ", "history": ""}[last.state]
    return f" since batch {last.batch}: {ending}{last.reason}" if last.reason else ""


def _is_settled(file: SourceFile, options: WatchOptions, now: datetime) -> bool:
    return file.modified is None or now - file.modified >= timedelta(seconds=options.settle_seconds)


def _counted(count: int) -> str:
    return f"{count:,} object{'' if count == 1 else 's'}"


def in_words(step: Start | Batch | BatchResult) -> str:
    """Return what a step did, for people."""
    match step:
        case Batch(number=0, objects=objects):
            return f"the history has {_counted(len(objects))}"
        case Batch(number=number, objects=objects):
            return f"batch {number} has {_counted(len(objects))}"
        case Start(batch=batch, attempt=attempt):
            return f"a retraining was started for batch {batch.number}" + (
                f", attempt {attempt}" if attempt > 1 else ""
            )
        case BatchResult(state="history"):
            return "the history is known"
        case BatchResult(batch=batch, reason=reason):
            return f"batch {batch} failed: {reason}"


def missing(ledger: Ledger, objects: Iterable[SourceFile]) -> tuple[str, ...]:
    """Return the URIs of objects that arrived and are no longer there."""
    present = {file.uri for file in objects}
    return tuple(sorted({file.uri for file in ledger.known} - present))


def uris_to_learn(ledger: Ledger, batch: int, objects: Iterable[SourceFile], window: Window) -> tuple[str, ...]:
    """Return the URIs of all data that a retraining for a batch learns from: those of the batch, and older ones.

    Older batches that failed are left out, since a file that cannot be processed would fail every later one as well. So
    are files of others that were overwritten since and arrived again in a batch that failed.

    Args:
        objects: What is at the source. What was deleted cannot be learned from.
    """
    learned = [
        each
        for each in ledger.batches
        if each.number == batch
        or (each.number < batch and each.number in ledger.results and ledger.results[each.number].state != "failed")
    ]
    current = next(each for each in learned if each.number == batch)
    newest = {file.uri: each.number for each in ledger.batches if each.number <= batch for file in each.objects}
    numbers = {each.number for each in learned}
    if window.batches is not None:
        learned = learned[-window.batches :]
    if window.days is not None:
        oldest = current.created - timedelta(days=window.days)
        learned = [each for each in learned if each is current or each.created >= oldest]
    present = {file.uri for file in objects}
    uris = {file.uri for each in learned for file in each.objects if newest[file.uri] in numbers}
    return tuple(sorted(uris & present))


def reason_to_skip(ledger: Ledger, options: RetrainOptions, now: datetime) -> str:
    """Return why nothing is to be trained for a batch whatever it holds; empty if its rows decide.

    Args:
        now: The time, with its time zone.
    """
    if options.when == "never":
        return "the watch is set to never retrain"
    ended = [result.ended for result in ledger.results.values() if result.state == "done"]
    until = max(ended) + timedelta(days=options.cool_down_days) if ended else now
    return f"the cool-down after the last retraining ends at {until:%Y-%m-%d %H:%M} UTC" if now < until else ""


def is_learned(ledger: Ledger, batch: int, sources: Iterable[SourceFile]) -> bool:
    """Return whether a model whose dataset has ``sources`` has learned from all objects of a batch."""
    learned = frozenset(sources)
    return all(file in learned for each in ledger.batches if each.number == batch for file in each.objects)


def uris_to_compare(ledger: Ledger, batch: int) -> list[tuple[str, ...]]:
    """Return the URIs of what is compared with what the champion learned from: those of the batch, and for the case
    that it has too few rows, those of more and more of the batches before it that were skipped since the last
    retraining: 1, 3, 7, … and all of them. More than are needed would hide a drift that has just begun.
    """
    last = max((number for number, result in ledger.results.items() if result.state == "done"), default=-1)
    skipped = [n for n in range(batch - 1, last, -1) if n in ledger.results and ledger.results[n].state == "skipped"]
    counts = [0, *(2**power - 1 for power in range(1, len(skipped).bit_length())), len(skipped)]
    return [
        tuple(sorted({uri for number in (batch, *skipped[:count]) for uri in uris_of(ledger, number)}))
        for count in dict.fromkeys(counts)
    ]


def reason_by_drift(report: DriftReport) -> str:
    """Return why nothing is to be trained for the rows of a comparison; empty if they have drifted."""
    if report.drifted:
        return ""
    if report.rows_kept < report.minimum_rows:
        rows = f"{report.rows_kept:,} row{'' if report.rows_kept == 1 else 's'} since the last retraining"
        return f"too few to tell whether they have drifted: {rows}, and {report.minimum_rows:,} are needed"
    return "not drifted: nothing is past its threshold"


def uris_of(ledger: Ledger, batch: int) -> list[str]:
    """Return the URIs of the objects of a batch."""
    return [file.uri for each in ledger.batches if each.number == batch for file in each.objects]


def require_rows(ledger: Ledger, batch: int, unusable: Mapping[str, str]) -> None:
    """Check that the files of a batch have a row that can be used.

    Args:
        batch: Its number.
        unusable: Why no row of a file can be used, by the file's URI.

    Raises:
        DataError: No file has one.
    """
    files = uris_of(ledger, batch)
    reasons = [unusable[uri] for uri in files if uri in unusable]
    if files and len(reasons) == len(files):
        raise DataError(
            "no row of the batch can be used",
            where=", ".join(files[:3]) + (", …" if len(files) > 3 else ""),
            detail=reasons[0],
            remedy="Write the files again as those before them",
        )
