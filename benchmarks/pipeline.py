"""The whole pipeline beside a plain script that calls the same stages on Ray without Prefect. Each side is a command.

    python benchmarks/pipeline.py [REPEATS] [SERVICES] [TRIALS]        1 own 8

With SERVICES ``own``, each command starts Ray, and the flow a Prefect server. With ``running``, all of them use one
existing Ray cluster, and the flow an existing Prefect server.

Each side gets an empty storage, and then runs a second time, which reuses its results. The database of Prefect exists
before. Both use the example flights and the defaults except TRIALS, and the script writes the same report as the flow.
With REPEATS, the sides take turns.
"""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import Watch

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("plain", "rayworks")
STAGES = ("process", "tune", "train", "register", "evaluate", "check-serving", "promote", "report")


class Stages:
    """Runs stages and records when each started and ended."""

    def __init__(self) -> None:
        self.times: dict[str, tuple[float, float]] = {}

    def run(self, name: str, function: Any, *arguments: Any, **options: Any) -> Any:
        started = time.time()
        record = function(*arguments, **options)
        self.times[name] = (started, time.time())
        return record

    def seconds(self) -> dict[str, float]:
        return {name: ended - started for name, (started, ended) in self.times.items()}


def plain(storage_uri: str, answer: str, trials: int) -> None:
    """The script that one would write without Prefect. Writes the times of its stages to the file ``answer``."""
    from rayworks.cluster import places
    from rayworks.settings import Settings

    places.prepare()
    ray = places.cluster_of(Settings())
    ray.acquire({}, {"log_to_driver": False})
    stages = Stages()
    records = run_stages(stages, storage_uri, trials)
    stages.run("report", write_report, f"{storage_uri}/report.html", records, stages.seconds())
    Path(answer).write_text(json.dumps(stages.times))
    ray.release()


def run_stages(stages: Stages, storage_uri: str, trials: int) -> dict[str, Any]:
    """Run all stages but the report. Returns their records, by their names in the report."""
    from rayworks.data import processing
    from rayworks.evaluation import evaluation, promotion, registry
    from rayworks.params import (
        EvaluateOptions,
        ProcessOptions,
        PromoteOptions,
        ServeCheckOptions,
        TrainOptions,
        TuneOptions,
    )
    from rayworks.serving import check
    from rayworks.training import training, tuning

    tracking_uri = f"sqlite:///{storage_uri}/mlflow.db"
    uris = {"storage_uri": storage_uri, "tracking_uri": tracking_uri}

    def process() -> Any:
        return processing.stage("example://flights", "arr_delay", ProcessOptions(), storage_uri=storage_uri).run()

    dataset = stages.run("process", process)
    train, tune = TrainOptions(), TuneOptions(trials=trials)
    search = tuning.stage(dataset, tune, train, storage_uri=storage_uri)
    tuned = stages.run("tune", search.run)
    best = tuned.best.hyperparameters
    model = stages.run("train", training.stage(dataset, train, hyperparameters=best, storage_uri=storage_uri).run)
    version = stages.run("register", registry.registration(model, tune=tuned, **uris).run)
    rival = registry.rival(version, tracking_uri=tracking_uri)
    judging = evaluation.stage(version, dataset, champion=rival, options=EvaluateOptions(), **uris)
    evaluated = stages.run("evaluate", judging.run)
    checking = check.stage(version, dataset, options=ServeCheckOptions(), **uris)
    checked = stages.run("check-serving", checking.run)
    decision = stages.run("promote", promotion.promote, version, evaluated, checked, PromoteOptions(), **uris)
    assert decision.promoted, decision.reason
    return {
        "dataset": dataset,
        "tune": tuned,
        "model": model,
        "version": version,
        "evaluation": evaluated,
        "serve_check": checked,
        "decision": decision,
    }


def write_report(uri: str, records: dict[str, Any], seconds: dict[str, float]) -> None:
    from rayworks.data import manifest
    from rayworks.reporting import report

    dataset = records["dataset"]
    contents: Any = records | {
        "dataset": manifest.load(dataset),
        "title": dataset.name,
        "links": {},
        "seconds": seconds,
    }
    report.write(uri, report.html(**contents))


@contextlib.contextmanager
def running(home: Path) -> Generator[dict[str, str]]:
    """Start a Ray cluster and a Prefect server for the block. Yields the settings that make a run use them."""
    from rayworks.free_port import free_port

    ray_port, prefect_port = free_port(), free_port()
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PREFECT_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    head = ["--head", "--block", f"--port={ray_port}", "--node-ip-address=127.0.0.1"]
    server = ["server", "start", "--port", str(prefect_port)]
    api_url = f"http://127.0.0.1:{prefect_port}/api"
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rayworks-"))
        head.append(f"--temp-dir={folder}")  # so that no other program connects to it
        for command in ([tools / "ray", "start", *head], [tools / "prefect", *server]):
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for _ in range(600):
            with contextlib.suppress(OSError, httpx.HTTPError):
                socket.create_connection(("127.0.0.1", ray_port)).close()
                httpx.get(f"{api_url}/health").raise_for_status()
                break
            time.sleep(0.2)
        else:
            sys.exit("Ray and Prefect did not start within two minutes")
        time.sleep(10)  # until both have finished their start
        yield {"RAYWORKS_RAY_ADDRESS": f"127.0.0.1:{ray_port}", "PREFECT_API_URL": api_url}


def run(side: str, storage: Path, home: Path, services: dict[str, str], trials: str) -> dict[str, Any]:
    """Run one side as a command. Returns its seconds, in all and by stage."""
    storage.mkdir(exist_ok=True)
    answer = storage / "stages.json"
    settings = {"PREFECT_HOME": str(home), "RAYWORKS_STORAGE_URI": str(storage), **services}
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "RAYWORKS_RAY_ADDRESS")
    }
    flow = [str(ROOT / "flows" / "pipeline.py"), f"--tune.trials={trials}"]
    script = ["-c", f"from benchmarks.pipeline import plain; plain({str(storage)!r}, {str(answer)!r}, {trials})"]
    started = time.time()
    with (storage / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *(flow if side == "rayworks" else script)],
            env={**inherited, **settings},
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        watch = Watch(process.pid)
        watch.until(lambda: process.poll() is not None)
        ended = time.time()
    if process.returncode:
        sys.exit((storage / "output.txt").read_text())
    stages = _task_run_times(home, started) if side == "rayworks" else json.loads(answer.read_text())
    first = min(start for start, _ in stages.values())
    last = max(end for _, end in stages.values())
    return {
        "total": ended - started,
        "CPU": watch.cpu,
        "peak": watch.peak / 2**30,
        "start": first - started,
        "stages": last - first,
        "end": ended - last,
        **{name: end - start for name, (start, end) in stages.items()},
    }


def _task_run_times(home: Path, since: float) -> dict[str, tuple[float, float]]:
    """Read from Prefect's database when each task run of the last flow run started and ended, once all are stored."""
    query = """
        select name, (julianday(start_time) - 2440587.5) * 86400, (julianday(end_time) - 2440587.5) * 86400
        from task_run where julianday(start_time) > ? / 86400 + 2440587.5
    """
    for _ in range(300):
        with sqlite3.connect(home / "prefect.db") as database:
            runs = database.execute(query, (since,)).fetchall()
        if len(runs) == len(STAGES) and all(end for _, _, end in runs):
            return {name.rpartition("-")[0]: (start, end) for name, start, end in runs}
        time.sleep(0.2)
    sys.exit("Prefect did not store all task runs within a minute")


def main(repeats: str = "1", services: str = "own", trials: str = "8") -> None:
    runs: dict[str, list[list[dict[str, Any]]]] = {"first": [], "second": []}
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        home = Path(os.environ.get("PREFECT_HOME", f"{name}/prefect"))
        migrate = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(migrate, env={**os.environ, "PREFECT_HOME": str(home)}, capture_output=True, check=True)
        with running(home) if services == "running" else contextlib.nullcontext({}) as addresses:
            for number in range(int(repeats)):
                for kind in runs:
                    runs[kind].append([])
                for side in SIDES:
                    for kind in runs:
                        runs[kind][-1].append(run(side, Path(name) / f"{side}-{number}", home, addresses, trials))
    for kind, title in {"first": "First run, empty storage", "second": "Second run, everything is reused"}.items():
        for pair in runs[kind]:
            sys.stdout.write(f"\n{title}\n\n| seconds | script | rayworks | ratio |\n|---|---|---|---|\n")
            for row in ("total", "CPU", "start", "stages", "end", *STAGES):
                script, flow = (side.get(row) for side in pair)
                ratio = f"{flow / script:.2f}" if script and flow else ""
                cells = " | ".join("" if value is None else f"{value:.1f}" for value in (script, flow))
                sys.stdout.write(f"| {row} | {cells} | {ratio} |\n")
    sys.stdout.write(json.dumps(runs) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
