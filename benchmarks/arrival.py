"""Seconds from the arrival of a file until its retraining has begun, step by step.

    uv run benchmarks/arrival.py [ARRIVALS]      5

A whole installation (``deployments/local.py``) watches a folder. For one half of the arrivals an event asks for a look
as soon as the file is written; for the other half a schedule does so, every ``LOOK_SECONDS``. A file counts as complete
at once. Each retraining has ended before the next file arrives. Prints the median and the longest of each step.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from rayworks.free_port import free_port
from rayworks.monitoring import arrivals
from rayworks.prefect_api import looks

ROOT = Path(__file__).resolve().parents[1]
LOOK_SECONDS = 10
WATCH = "arrivals"
STEPS = (
    "the look is due",
    "the look has begun",
    "the batch is in the ledger",
    "the retraining is due",
    "its process has begun",
    "its first task has begun",
    "training has begun",
)
PARAMETERS = {
    "watch": WATCH,
    "target": "amount",
    "options": {"settle_seconds": 0},
    "tune": {"trials": 0},
    "train": {"rounds": 5},
    "serve_check": {"rows": 5},
}


def wait_for(found: Callable[[], Any]) -> Any:
    """Return the first true value of ``found``."""
    deadline = time.monotonic() + 600
    while not (value := found()):
        if time.monotonic() > deadline:
            sys.exit("nothing happened within ten minutes")
        time.sleep(0.2)
    return value


class Installation:
    """An installation of its own, and a client of its Prefect API."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, port = folder, folder / "source", free_port()
        self.source.mkdir()
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_API_PORT": str(port),
            "MLFLOW_PORT": str(free_port()),
            "RAYWORKS_STORAGE_URI": str(folder / "storage"),
        }
        command = [sys.executable, str(ROOT / "deployments" / "local.py")]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60)
        wait_for(lambda: "Storage:" in (folder / "log").read_text())
        self.deployment = self.api.get("/deployments/name/watch/watch").raise_for_status().json()["id"]
        self.parameters = {**PARAMETERS, "source": str(self.source)}

    def post(self, path: str, body: Any) -> Any:
        answer = self.api.post(path, json=body).raise_for_status()
        return answer.json() if answer.content else None

    def runs(self, **names: Any) -> list[Any]:
        """Flow runs by their names, the oldest first."""
        found = self.post("/flow_runs/filter", {"flow_runs": {"name": names}, "sort": "START_TIME_ASC"})
        return [run for run in found if run["start_time"]]

    def ledger(self) -> arrivals.Ledger:
        return arrivals.read(arrivals.location(str(self.folder / "storage"), WATCH))

    def first_look(self) -> None:
        """Let the files that are there become the history."""
        self.post(f"/deployments/{self.deployment}/create_flow_run", {"parameters": self.parameters})
        wait_for(lambda: self.ledger().results)
        wait_for(lambda: self.post("/automations/filter", {}))  # the first look makes it

    def schedule(self) -> None:
        entry = {"schedule": {"interval": LOOK_SECONDS}, "active": True, "slug": WATCH, "parameters": self.parameters}
        self.post(f"/deployments/{self.deployment}/schedules", [entry])

    def arrival(self, number: int, *, asks: bool) -> list[float]:
        """Write a file, and return the seconds from then until each of ``STEPS``."""
        write(self.source / f"{number}.csv")
        written = time.time()
        if asks:
            event = {"event": looks.EVENT, "resource": {"prefect.resource.id": looks.resource_id(WATCH)}}
            identity = {
                "id": f"00000000-0000-4000-8000-{number:012}",
                "occurred": datetime.now().astimezone().isoformat(),
            }
            self.post("/events", [event | identity])
        batch = len(self.ledger().batches)
        wait_for(lambda: batch in self.ledger().results)
        ledger = self.ledger()
        made = ledger.batches[batch].created.timestamp()
        look = [run for run in self.runs(any_=[WATCH]) if moment(run["start_time"]) <= made][-1]
        (retraining,) = self.runs(any_=[f"{WATCH}-batch-{batch}"])
        wait_for(lambda: self.api.get(f"/flow_runs/{retraining['id']}").json()["state"]["type"] == "COMPLETED")
        begun = wait_for(lambda: self.starts_of_tasks(retraining["id"]))
        moments = [
            moment(look["expected_start_time"]),
            moment(look["start_time"]),
            made,
            moment(retraining["expected_start_time"]),
            moment(retraining["start_time"]),
            begun[0][0],
            next(start for start, name in begun if name.startswith("train-")),
        ]
        return [each - written for each in moments]

    def starts_of_tasks(self, run: str) -> list[tuple[float, str]]:
        """When each task of a run began, and its name, in that order; empty while the server does not know all."""
        tasks = self.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        if not all(task["start_time"] for task in tasks):
            return []
        return sorted((moment(task["start_time"]), task["name"]) for task in tasks)

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def write(file: Path) -> None:
    rows = "\n".join(f"{n},{3 * n + 1}" for n in range(300))
    hidden = file.with_name(f"_{file.name}")
    hidden.write_text(f"n,amount\n{rows}\n")
    hidden.rename(file)


def main(count: int = 5) -> None:
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        installation = Installation(Path(name))
        try:
            write(installation.source / "0.csv")
            installation.first_look()
            by_event = [installation.arrival(1 + n, asks=True) for n in range(count)]
            installation.schedule()
            time.sleep(LOOK_SECONDS)
            by_schedule = [installation.arrival(1 + count + n, asks=False) for n in range(count)]
        finally:
            installation.end()
    sys.stdout.write(
        f"| seconds since the file arrived | by an event | by a schedule of {LOOK_SECONDS} s |\n|---|---|---|\n"
    )
    for step, events, schedules in zip(STEPS, zip(*by_event, strict=True), zip(*by_schedule, strict=True), strict=True):
        cells = [f"{statistics.median(each):.1f} ({max(each):.1f})" for each in (events, schedules)]
        sys.stdout.write(f"| {step} | {cells[0]} | {cells[1]} |\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
