"""Looks of a watch at the same time, and after one that was killed, take each step once."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayworks.monitoring import arrivals, watching
from rayworks.monitoring.arrivals import Attempt, Batch, BatchResult, RunState
from rayworks.monitoring.options import WatchOptions

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
OPTIONS = WatchOptions(first="batch", settle_seconds=0, attempts=3, retry_seconds=0)


class World:
    """A ledger whose batch 1 has one attempt, which has ended, and the runs that looks have started."""

    def __init__(self, folder: Path) -> None:
        self.uri, self.source = str(folder / "ledger"), folder / "lake"
        self.source.mkdir()
        self.started: list[tuple[int, int]] = []
        arrivals.add(self.uri, Batch(number=1, objects=(), created=NOON))
        arrivals.add(self.uri, Attempt(batch=1, number=1, flow_run_id="1/1", started=NOON))

    def start(self, batch: Batch, attempt: int) -> str:
        self.started.append((batch.number, attempt))
        return f"{batch.number}/{attempt}"

    def look(self, state: Callable[[str], RunState]) -> list[str]:
        return watching.look(self.uri, str(self.source), OPTIONS, start=self.start, state=state, failed=lambda _: None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_of_two_looks_at_the_same_time_one_starts_the_next_attempt(world: World):
    def state(run: str) -> RunState:
        return RunState("failed", ended=NOON) if run == "1/1" else RunState("active")

    def state_before_the_other_look(run: str) -> RunState:
        known = state(run)
        if not world.started:
            assert world.look(state)[0] == "a retraining was started for batch 1, attempt 2"
        return known

    assert world.look(state_before_the_other_look) == ["batch 1 is being learned"]
    assert world.started == [(1, 2)]


def test_a_run_that_was_cancelled_is_of_its_own_batch_alone(world: World):
    def state(run: str) -> RunState:
        return RunState("cancelled") if run == "1/1" else RunState("active")

    def state_while_another_look_makes_the_next_batch(run: str) -> RunState:
        known = state(run)
        if not arrivals.read(world.uri).results:
            arrivals.add(world.uri, BatchResult(batch=1, state="failed", ended=NOON))
            arrivals.add(world.uri, Batch(number=2, objects=(), created=NOON))
        return known

    lines = world.look(state_while_another_look_makes_the_next_batch)
    assert lines == ["a retraining was started for batch 2", "batch 2 is being learned"]
    assert world.started == [(2, 1)]


@pytest.mark.parametrize("left", ["nothing", "a part of a file"])
def test_a_look_goes_on_after_one_that_was_killed_before_its_first_fact(tmp_path: Path, left: str):
    ledger, source = tmp_path / "ledger", tmp_path / "lake"
    for folder in (ledger, source):
        folder.mkdir()
    if left == "a part of a file":
        (ledger / ".000001.batch.json.0a1b2c3d.part").write_text("{")
    (source / "a.csv").write_text("n,amount\n1,2\n")
    lines = watching.look(
        str(ledger),
        str(source),
        OPTIONS,
        start=lambda batch, attempt: "run",
        state=lambda _: RunState("active"),
        failed=lambda _: None,
    )
    assert lines == ["batch 1 has 1 object", "a retraining was started for batch 1", "batch 1 is being learned"]
