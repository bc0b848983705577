"""Whatever is killed, a watch loses no file, and a retraining is repeated until it is done: all of it for real.

The Prefect server has its records in PostgreSQL; the worker, the runs and MLflow are those of ``deployments/local.py``.
A schedule starts the looks, each a process of its own; a test that waits for the next one starts it at once. A run is
killed as soon as it has stored what was not there before, so once after each effect of it, and its next attempt goes on
from there.
"""

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.schedules import IntervalSchedule

from deployments import local
from rayworks.monitoring import arrivals
from rayworks.monitoring.arrivals import Ledger
from tests.deployments.installation import QUICK, Installation, Runs, arrive, using
from tests.deployments.postgresql import PrefectOnPostgreSQL, kill
from tests.marked_processes import MARK, processes_with_variable
from tests.waiting import eventually

pytestmark = [pytest.mark.xdist_group("laptop"), pytest.mark.timeout(1800)]

WATCH = "lake"
OPTIONS = {"settle_seconds": 0, "attempts": 100, "retry_seconds": 0}
LOOK_SECONDS = 60
EVERY_EFFECT = bool(os.environ.get("RAYWORKS_TEST_EVERY_EFFECT"))
"""Whether a run is also killed after those of its effects which another run creates again as they were."""
IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_WORKER_QUERY_SECONDS": "1"}
"""Settings with which a run ends at once, and its worker after 45 seconds, when the server is away."""
DOWN_SECONDS = 20
"""How long the server and the database are away: longer than a request, and than the worker waits between two."""


class Lake:
    """An installation that watches a folder."""

    def __init__(self, folder: Path, prefect: PrefectOnPostgreSQL) -> None:
        self.source, self.prefect = folder / "lake", prefect
        self.source.mkdir()
        self.installation = Installation(folder, api_url=prefect.api_url)
        self.installation.start()
        self.storage = folder / "storage"
        self.arrived: list[str] = []

    def arrive(self) -> int:
        """Let a file arrive, and return the number of its batch."""
        self.arrived.append(f"{2024 + len(self.arrived)}")
        arrive(self.source, self.arrived[-1])
        return len(self.arrived) - 1

    def ledger(self) -> Ledger:
        return arrivals.read(arrivals.location(str(self.storage), WATCH))

    def effects(self) -> set[str]:
        """What runs have stored, each by a name: the records of stages, pages, and the rows of the registry."""
        found = {f"registry: {row}" for row in self.registry()}
        found |= {str(path) for path in self.storage.glob("arrivals/*/*.result.json")}
        found |= self.datasets()
        if EVERY_EFFECT:
            for records in ("models/*/model_ref", "evaluations/*", "serve_checks/*", "decisions/*"):
                found |= {str(path) for path in self.storage.glob(f"{records}.json")}
            found |= {str(path) for path in self.storage.glob("reports/*.html")}
        return found

    def datasets(self) -> set[str]:
        return {str(path) for path in self.storage.glob("datasets/*/dataset.json")}

    def registry(self) -> list[str]:
        """The versions of the model, and that of the champion."""
        rows: list[str] = []
        with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(self.storage / "mlflow.db")) as database:
            for table, column in (("model_versions", "name"), ("registered_model_aliases", "alias")):
                found = database.execute(f"SELECT {column}, version FROM {table}")
                rows += [f"{table} {name} {version}" for name, version in found]
        return rows

    def kill_run(self, run_id: UUID) -> None:
        """Kill every process of a flow run: its own, its Ray, and its workers."""
        for process in processes_of(run_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def has_worker(self) -> bool:
        commands = processes_with_variable(f"{MARK}={self.installation.mark}").values()
        return any("prefect worker start" in command for command in commands)

    def kill_all(self) -> None:
        """Kill every process of the installation, as a power cut does."""
        for line in self.installation.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        self.installation.process.wait()

    def output(self) -> str:
        return f"{self.ledger()}\n{self.installation.output()[-5000:]}"


def processes_of(run_id: UUID) -> dict[int, str]:
    return processes_with_variable(f"PREFECT__FLOW_RUN_ID={run_id}")


def any_runs(processes: Iterable[int]) -> bool:
    """Whether one of these processes has not ended: much cheaper to ask than :func:`processes_of`."""
    return any(Path(f"/proc/{process}").exists() for process in processes)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lake]:
    prefect = PrefectOnPostgreSQL()
    prefect.start_database()
    prefect.start_server(**local.SERVER_DEFAULTS)
    lake = Lake(tmp_path_factory.mktemp("kills"), prefect)
    try:
        with using(prefect.api_url) as client:
            lake.arrive()
            schedule_looks(client, lake)
            look(lake, Runs(lake.installation, client))
            eventually(lambda: is_closed(lake, 0), 300, lake.output)  # the history is known
        yield lake
    finally:
        lake.installation.process.terminate()
        lake.installation.process.wait(timeout=120)
        prefect.stop()


@pytest.fixture
def runs(lake: Lake) -> Generator[Runs]:
    with using(lake.prefect.api_url) as client:
        yield Runs(lake.installation, client)


def parameters(lake: Lake) -> dict[str, Any]:
    """Those of the watch."""
    return {"watch": WATCH, "source": str(lake.source), "target": "amount", "options": OPTIONS, **QUICK}


def look(lake: Lake, runs: Runs) -> UUID:
    """Start a look, as the schedule does later."""
    return runs.start("watch/watch", **parameters(lake))


def active(runs: Runs, batch: int) -> Any:
    """The retraining of a batch that runs now, if there is one."""
    found = [run for run in runs.named(f"{WATCH}-batch") if run.state is not None and run.state.is_running()]
    assert len(found) <= 1, "two retrainings run at the same time"
    return found[0] if found and found[0].name == f"{WATCH}-batch-{batch}" else None


def schedule_looks(client: Any, lake: Lake) -> None:
    deployment = client.read_deployment_by_name("watch/watch")
    every = IntervalSchedule(interval=timedelta(seconds=LOOK_SECONDS)).model_dump(mode="json")
    body = [{"schedule": every, "active": True, "slug": WATCH, "parameters": parameters(lake)}]
    client.request("POST", "/deployments/{id}/schedules", path_params={"id": deployment.id}, json=body)


def is_closed(lake: Lake, batch: int) -> bool:
    return batch in lake.ledger().results


def test_a_run_that_is_killed_after_each_of_its_effects_is_repeated_until_it_is_done(lake: Lake, runs: Runs):
    batch, known, kills = lake.arrive(), lake.effects(), 0
    while not is_closed(lake, batch):
        look(lake, runs)
        run = eventually(lambda: active(runs, batch) or is_closed(lake, batch), 300, lake.output)
        if run is True:
            break
        processes = processes_of(run.id)
        eventually(lambda: lake.effects() > known or not any_runs(processes), 300, lake.output, every=0.02)  # noqa: B023
        is_killed = lake.effects() > known
        lake.kill_run(run.id)
        known |= lake.effects()
        state = runs.ended(run.id, 300).state
        assert state.is_crashed() or is_closed(lake, batch) or not is_killed, state
        kills += is_killed
    assert kills >= 3, known
    result = lake.ledger().results[batch]
    assert result.state == "done" or "the champion, has learned from it" in result.reason
    assert [row for row in lake.registry() if row.startswith("model_versions")] == ["model_versions lake 1"]


def test_a_run_outlives_the_end_of_the_server_and_of_its_database(lake: Lake, runs: Runs):
    batch = lake.arrive()
    look(lake, runs)
    run = eventually(lambda: active(runs, batch), 300, lake.output)
    known = lake.datasets()
    eventually(lambda: lake.datasets() > known, 300, lake.output)
    kill(lake.prefect.server)
    kill(lake.prefect.database)
    time.sleep(DOWN_SECONDS)
    lake.prefect.start_database()
    lake.prefect.start_server(**local.SERVER_DEFAULTS)
    assert runs.ended(run.id, 300).state.is_completed(), lake.output()
    ledger = lake.ledger()
    assert (ledger.results[batch].state, len(ledger.attempts[batch])) == ("done", 1)


def test_a_run_that_a_power_cut_ended_is_repeated_and_so_is_one_that_ended_while_the_server_was_away(
    lake: Lake, runs: Runs
):
    batch = lake.arrive()
    look(lake, runs)
    run = eventually(lambda: active(runs, batch), 300, lake.output)
    known = lake.datasets()
    eventually(lambda: lake.datasets() > known, 300, lake.output)
    lake.kill_all()
    lake.installation.start(**IMPATIENT)
    assert runs.ended(run.id, 300).state.is_crashed()
    look(lake, runs)
    run = eventually(lambda: active(runs, batch), 300, lake.output)
    kill(lake.prefect.server)
    eventually(lambda: not processes_of(run.id), 300, lake.output)
    lake.prefect.start_server(**local.SERVER_DEFAULTS)
    assert runs.ended(run.id, 300).state.is_crashed()
    look(lake, runs)
    eventually(lambda: is_closed(lake, batch), 300, lake.output)
    ledger = lake.ledger()
    assert ledger.results[batch].state == "done"
    *ended, last = [runs.ended(UUID(attempt.flow_run_id)) for attempt in ledger.attempts[batch]]
    assert last.state.is_completed(), last.state
    # On a busy machine, an impatient run may also end while the server starts: it counts as one that was killed.
    assert len(ended) >= 2, ledger
    assert all(each.state.is_crashed() for each in ended), [each.state for each in ended]
    # The books: each file is in one batch, each batch has one result, and the last model has learned from all files.
    batches = [[Path(file.uri).stem for file in batch.objects] for batch in ledger.batches]
    assert batches == [[name] for name in lake.arrived]
    newest = max(lake.datasets(), key=os.path.getmtime)
    assert json.loads(Path(newest).read_text())["rows_in"] == 300 * len(lake.arrived)
    spans = sorted((each.start_time, each.end_time) for each in runs.named(f"{WATCH}-batch"))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "two retrainings ran at the same time"


def test_a_worker_that_gave_up_on_the_server_is_replaced(lake: Lake, runs: Runs):
    kill(lake.prefect.server)
    eventually(lambda: not lake.has_worker(), 300, lake.output)
    lake.prefect.start_server(**local.SERVER_DEFAULTS)
    eventually(lambda: "Another worker has started" in lake.installation.output(), 300, lake.output)
    known = {run.id for run in runs.named(WATCH)}
    look(lake, runs)

    def completed_looks() -> list[Any]:
        later = [run for run in runs.named(WATCH) if run.id not in known]
        return [run for run in later if run.state is not None and run.state.is_completed()]

    eventually(completed_looks, 120, lake.output)
