"""A watch loses no object and starts one retraining at a time, wherever it or a run is killed."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from rayworks import storage
from rayworks.errors import DataError, ParameterError, StorageError
from rayworks.monitoring import arrivals, new_data, watching
from rayworks.monitoring.arrivals import Attempt, Batch, BatchResult, Ledger, RunState
from rayworks.monitoring.drift_report import DriftReport
from rayworks.monitoring.new_data import Start, Wait
from rayworks.monitoring.options import RetrainOptions, WatchOptions, Window
from rayworks.params import ProcessOptions
from rayworks.records import SourceFile

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
STATES: tuple[Literal["history", "failed", "done"], ...] = ("history", "failed", "done")
FIRST_BATCH = WatchOptions(first="batch", settle_seconds=60, attempts=3, retry_seconds=100)


def file(name: str, *, age: float = 3600, size: int = 10) -> SourceFile:
    return SourceFile(uri=f"/data/{name}.csv", bytes=size, modified=NOON - timedelta(seconds=age))


def ledger(*names: str, attempts: int = 0, state: Literal["done"] | None = None) -> Ledger:
    """A ledger whose batch 1 has the files of ``names``."""
    batch = Batch(number=1, objects=tuple(file(name) for name in names), created=NOON)
    started = tuple(Attempt(batch=1, number=n + 1, flow_run_id=f"run-{n}", started=NOON) for n in range(attempts))
    results = {1: BatchResult(batch=1, state=state, ended=NOON)} if state else {}
    return Ledger((batch,), {1: started}, results)


def step(known: Ledger, *objects: SourceFile, run: RunState | None = None, options: WatchOptions = FIRST_BATCH):
    return new_data.next_step(known, objects, run, options, NOON)


def test_what_is_there_at_the_first_look_is_history_unless_it_is_to_be_a_batch():
    objects = (file("a"), file("b"))
    assert step(Ledger(), *objects) == Batch(number=1, objects=objects, created=NOON)
    history = step(Ledger(), *objects, options=WatchOptions())
    assert isinstance(history, Batch)
    assert history == Batch(number=0, objects=objects, created=NOON)
    assert step(Ledger((history,)), *objects) == BatchResult(batch=0, state="history", ended=NOON)


def test_a_batch_has_all_complete_objects_that_are_new():
    objects = (file("a"), file("b"), file("c"), file("still-written", age=5))
    assert step(ledger("a", state="done"), *objects) == Batch(number=2, objects=objects[1:3], created=NOON)


def test_an_object_that_is_overwritten_is_new_and_one_that_is_deleted_is_missing():
    done = ledger("a", "b", state="done")
    overwritten = file("a", size=11)
    assert step(done, overwritten) == Batch(number=2, objects=(overwritten,), created=NOON)
    assert new_data.missing(done, [overwritten]) == ("/data/b.csv",)


def test_an_object_that_may_still_be_written_waits():
    assert step(ledger("a", state="done"), file("a"), file("b", age=59)) == Wait("1 object may still be written")
    assert step(ledger("a", state="done"), file("a")) == Wait("nothing has arrived")
    assert step(Ledger()) == Wait("nothing is at the source yet")


@pytest.mark.parametrize(
    ("attempts", "run", "expected"),
    [
        (0, None, "start 1"),
        (1, RunState("active"), "wait"),
        (1, RunState("failed", "no", NOON), "wait"),
        (1, RunState("failed", "no", NOON - timedelta(seconds=101)), "start 2"),
        (2, RunState("failed", "no", NOON - timedelta(seconds=101)), "wait"),
        (2, RunState("completed", "", NOON - timedelta(seconds=201)), "start 3"),
        (3, RunState("failed", "no", NOON - timedelta(days=1)), "failed: no"),
        (3, RunState("completed", "", NOON), "failed: its run ended without a result"),
        (1, RunState("cancelled", "", NOON), "failed: its run was cancelled"),
    ],
)
def test_a_failed_attempt_is_repeated_with_growing_waits_until_the_batch_has_failed(
    attempts: int, run: RunState | None, expected: str
):
    taken = step(ledger("a", attempts=attempts), file("a"), file("new"), run=run)
    if isinstance(taken, Start):
        assert expected == f"start {taken.attempt}"
    elif isinstance(taken, BatchResult):
        assert expected == f"{taken.state}: {taken.reason}"
    else:
        assert expected == "wait"


@pytest.mark.parametrize(
    ("window", "names"),
    [
        (Window(), ["history", "second", "third"]),
        (Window(batches=2), ["second", "third"]),
        (Window(days=1.5), ["second", "third"]),
        (Window(batches=1), ["third"]),
    ],
)
def test_a_retraining_learns_from_the_window_without_failed_batches_and_deleted_objects(
    window: Window, names: list[str]
):
    objects = {name: file(name) for name in ("history", "failed", "second", "deleted", "third")}
    batches = (("history",), ("failed",), ("second", "deleted"), ("third",))
    made = tuple(
        Batch(number=number, objects=tuple(objects[name] for name in inside), created=NOON + timedelta(days=number))
        for number, inside in enumerate(batches)
    )
    results = {number: BatchResult(batch=number, state=state, ended=NOON) for number, state in enumerate(STATES)}
    present = [found for name, found in objects.items() if name != "deleted"]
    uris = new_data.uris_to_learn(Ledger(made, {}, results), 3, present, window)
    assert list(uris) == sorted(f"/data/{name}.csv" for name in names)


def test_a_look_says_what_was_decided_about_the_last_batch():
    [batch] = ledger("a").batches
    decided = BatchResult(batch=1, state="done", reason="Not promoted: too few rows.", ended=NOON)
    waits = step(Ledger((batch,), {}, {1: decided}), file("a"))
    assert waits == Wait("nothing has arrived since batch 1: Not promoted: too few rows.")


def test_a_batch_without_a_usable_row_is_refused_with_the_reason():
    known = ledger("a", "b")
    new_data.require_rows(known, 1, {"/data/a.csv": "y: missing"})
    with pytest.raises(DataError, match=r"No row of the batch can be used: /data/a.csv, /data/b.csv \(y: missing\)"):
        new_data.require_rows(known, 1, {"/data/a.csv": "y: missing", "/data/b.csv": "y: missing"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (RetrainOptions(), ""),
        (RetrainOptions(when="on drift"), ""),
        (RetrainOptions(when="never"), "the watch is set to never retrain"),
        (RetrainOptions(cool_down_days=2), ""),
        (RetrainOptions(cool_down_days=4), "the cool-down after the last retraining ends at 2025-06-02 12:00 UTC"),
    ],
)
def test_a_batch_is_skipped_by_policy_and_until_the_cool_down_after_the_last_retraining_ends(
    options: RetrainOptions, reason: str
):
    days = {"done": 3, "skipped": 1, "failed": 1}
    results = {
        number: BatchResult(batch=number, state=state, ended=NOON - timedelta(days=days[state]))
        for number, state in enumerate(("done", "skipped", "failed"), start=1)
    }
    assert new_data.reason_to_skip(Ledger((), {}, results), options, NOON) == reason


def test_a_later_retraining_learns_from_a_batch_that_was_skipped():
    batches = tuple(Batch(number=n, objects=(file(name),), created=NOON) for n, name in enumerate("ab", start=1))
    skipped = {1: BatchResult(batch=1, state="skipped", ended=NOON)}
    uris = new_data.uris_to_learn(Ledger(batches, {}, skipped), 2, (file("a"), file("b")), Window())
    assert uris == ("/data/a.csv", "/data/b.csv")


def test_a_file_that_was_overwritten_by_one_that_failed_is_left_out_of_later_retrainings():
    files = (file("a"), file("a", size=11), file("b"))
    batches = tuple(Batch(number=n, objects=(each,), created=NOON) for n, each in enumerate(files))
    results = {
        0: BatchResult(batch=0, state="history", ended=NOON),
        1: BatchResult(batch=1, state="failed", ended=NOON),
    }
    uris = new_data.uris_to_learn(Ledger(batches, {}, results), 2, files[1:], Window())
    assert uris == ("/data/b.csv",)


def test_a_small_batch_is_compared_with_more_and_more_of_those_that_were_skipped_since_the_last_retraining():
    states = ["history", "skipped", "done", "skipped", "failed", "skipped", "skipped", "skipped", "skipped"]
    results = {n: BatchResult(batch=n, state=state, ended=NOON) for n, state in enumerate(states)}
    batches = tuple(Batch(number=n, objects=(file(str(n)),), created=NOON) for n in range(10))
    found = new_data.uris_to_compare(Ledger(batches, {}, results), 9)
    assert [[Path(uri).stem for uri in uris] for uris in found] == [
        ["9"],
        ["8", "9"],
        ["6", "7", "8", "9"],
        ["3", "5", "6", "7", "8", "9"],
    ]
    assert new_data.uris_to_compare(Ledger(batches, {}, {}), 3) == [("/data/3.csv",)]


@pytest.mark.parametrize(
    ("rows", "drifted", "reason"),
    [
        (500, True, ""),
        (500, False, "not drifted: nothing is past its threshold"),
        (
            499,
            False,
            "too few to tell whether they have drifted: 499 rows since the last retraining, and 500 are needed",
        ),
    ],
)
def test_the_reason_for_no_retraining_says_how_many_rows_there_were_if_they_were_too_few(
    rows: int, drifted: bool, reason: str
):
    report = DriftReport.model_construct(rows_kept=rows, minimum_rows=500, drifted=drifted)
    assert new_data.reason_by_drift(report) == reason


def test_a_batch_is_learned_by_a_model_with_all_of_its_objects():
    known = ledger("a", "b")
    assert new_data.is_learned(known, 1, [file("a"), file("b"), file("c")])
    assert not new_data.is_learned(known, 1, [file("a"), file("b", size=11)])


class KilledError(Exception):
    pass


class World:
    """Runs and a watcher that may be killed before or after any of their effects, on a real storage."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, lives: Iterator[int]) -> None:
        self.uri, self.source, self.lives, self.left = str(folder / "ledger"), folder / "data", lives, next(lives)
        self.runs: dict[str, RunState] = {}  # by idempotency key
        self.learned: list[int] = []
        self.now = datetime.now(UTC)
        self.source.mkdir()
        add = arrivals.add

        def added(uri: str, fact: Batch | Attempt | BatchResult) -> bool:
            self.effect()
            is_added = add(uri, fact)
            self.effect()
            return is_added

        monkeypatch.setattr(arrivals, "add", added)

    def effect(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.left = next(self.lives)
            raise KilledError

    def start(self, batch: Batch, attempt: int) -> str:
        key = f"{batch.number}/{attempt}"
        self.runs.setdefault(key, RunState("active"))  # a repeated key returns the run that is there
        self.effect()
        return key

    def look(self) -> None:
        watching.look(
            self.uri,
            str(self.source),
            FIRST_BATCH,
            start=self.start,
            state=self.runs.__getitem__,
            failed=lambda _: None,
            now=lambda: self.now,
        )

    def retrain(self) -> None:
        """Run what is active, as the flow ``retrain`` does: its last effect is the result of the batch."""
        active = [key for key, run in self.runs.items() if run.kind == "active"]
        assert len(active) <= 1
        for key in active:
            batch = int(key.split("/")[0])
            try:
                if arrivals.add(self.uri, BatchResult(batch=batch, state="done", ended=self.now)):
                    self.learned.append(batch)
                self.runs[key] = RunState("completed", ended=self.now)
            except KilledError:
                self.runs[key] = RunState("failed", "killed", self.now)


@pytest.mark.parametrize("lives", list(itertools.product(range(4), repeat=3)))
def test_no_object_is_lost_and_no_batch_learned_twice_wherever_watch_and_retrain_are_killed(
    lives: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    world = World(tmp_path, monkeypatch, iter([*lives, 10**6]))
    for number in range(12):
        world.now += timedelta(hours=1)
        if number < 3:
            (world.source / f"{number}.csv").write_text("a\n1\n")
        with contextlib.suppress(KilledError):
            world.look()
        world.retrain()
    ledger = arrivals.read(world.uri)
    arrived = [found.uri for batch in ledger.batches for found in batch.objects]
    assert sorted(arrived) == [str(world.source / f"{number}.csv") for number in range(3)]
    assert ledger.open_batch is None
    assert {result.state for result in ledger.results.values()} == {"done"}
    assert len(world.learned) == len(set(world.learned))


def test_twenty_files_within_a_minute_are_each_in_one_batch_and_no_two_retrainings_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    world = World(tmp_path, monkeypatch, iter([10**6]))
    start = world.now
    for second in range(0, 300, 3):
        world.now = start + timedelta(seconds=second)
        if second < 60:
            path = world.source / f"{second:02}.csv"
            path.write_text("a\n1\n")
            os.utime(path, (world.now.timestamp(), world.now.timestamp()))
        if second % 12 == 0:
            world.look()
        if second % 45 == 0:  # which checks that one is active at most
            world.retrain()
    ledger = arrivals.read(world.uri)
    batches = [[Path(found.uri).name for found in batch.objects] for batch in ledger.batches]
    assert sorted(itertools.chain(*batches)) == [f"{second:02}.csv" for second in range(0, 60, 3)]
    assert world.learned == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "file_format", "found"),
    [
        ([], "auto", []),
        (["a.csv", "README.md", "empty.csv", "_writing.csv"], "auto", ["a.csv"]),
        (["a", "README.md"], "csv", ["README.md", "a"]),
    ],
)
def test_data_files_arrive_and_others_do_not(
    names: list[str], file_format: Literal["auto", "csv"], found: list[str], tmp_path: Path
):
    assert new_data.listed(str(tmp_path / "not there yet")) == ()
    for name in names:
        (tmp_path / name).write_text("" if name == "empty.csv" else "a\n1\n")
    assert [Path(each.uri).name for each in new_data.listed(str(tmp_path), file_format)] == found


def test_of_two_watchers_one_makes_the_batch(tmp_path: Path):
    uri = str(tmp_path / "ledger")
    batches = [Batch(number=1, objects=(file(name),), created=NOON) for name in ("a", "b")]
    assert [arrivals.add(uri, batch) for batch in batches] == [True, False]
    assert arrivals.read(uri) == Ledger((batches[0],))


def test_a_target_that_the_first_file_does_not_have_is_named_with_the_columns(tmp_path: Path):
    (tmp_path / "2025.csv").write_text("n,amount\n1,2\n")
    objects = new_data.listed(str(tmp_path))
    new_data.check_target(objects, "amount", ProcessOptions())
    new_data.check_target((), "price", ProcessOptions())
    with pytest.raises(ParameterError, match=r"no such column: price .*2025\.csv are n, amount.*parameter Target"):
        new_data.check_target(objects, "price", ProcessOptions())


def test_a_file_that_cannot_be_read_is_not_a_wrong_target(tmp_path: Path):
    (tmp_path / "2025.parquet").write_bytes(b"no parquet")
    new_data.check_target(new_data.listed(str(tmp_path)), "price", ProcessOptions())


def test_a_source_that_may_not_be_listed_names_the_parameter(monkeypatch: pytest.MonkeyPatch):
    def refuse(uri: str) -> None:
        with storage.explained(uri, "list"):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(storage, "list_files", refuse)
    with pytest.raises(StorageError, match=r"source cannot be listed: /root/lake .*denied.*parameter Source"):
        new_data.listed("/root/lake")


def test_a_batch_that_failed_is_told_once(tmp_path: Path):
    told: list[BatchResult] = []
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "2025.csv").write_text("n,amount\n1,2\n")
    for _ in range(2):
        watching.look(
            str(tmp_path / "ledger"),
            str(tmp_path / "lake"),
            WatchOptions(first="batch", settle_seconds=0),
            start=lambda batch, attempt: "run",
            state=lambda _: RunState("cancelled"),
            failed=told.append,
        )
    assert [(result.batch, result.reason) for result in told] == [(1, "its run was cancelled")]
