"""The whole pipeline beside a plain script that calls the same stages on Ray without Prefect, each as a command of its own.

    python benchmarks/pipeline.py [REPEATS] [SERVICES] [TRIALS]        1 own 8

With SERVICES ``own``, each command starts a Ray, and the flow a Prefect server; with ``running``, all find one Ray that
runs, and the flow a Prefect server.

Each side gets an empty storage, and then runs a second time, which reuses what is there. The home of Prefect is there
already. Both take the example flights with all defaults but TRIALS, and the script writes the same page as the flow. With
REPEATS, the sides take turns.
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
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from benchmarks.processes import Watch

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("plain", "rayworks")
STAGES = ("process", "tune", "train", "register", "evaluate", "check-serving", "promote", "report")


def plain(storage_uri: str, answer: str, trials: int) -> None:
    """The script that somebody would write without Prefect."""
    from rayworks.cluster import places
    from rayworks.data import manifest, processing
    from rayworks.evaluation import evaluation, registry
    from rayworks.params import (
        EvaluateOptions,
        ProcessOptions,
        PromoteOptions,
        ServeCheckOptions,
        TrainOptions,
        TuneOptions,
    )
    from rayworks.reporting import report
    from rayworks.serving import check
    from rayworks.settings import Settings
    from rayworks.training import training, tuning

    places.prepare()
    ray = places.cluster_of(Settings())
    ray.acquire({}, {"log_to_driver": False})
    tracking_uri = f"sqlite:///{storage_uri}/mlflow.db"
    uris = {"storage_uri": storage_uri, "tracking_uri": tracking_uri}
    stages: dict[str, tuple[float, float]] = {}

    def timed(name: str, run: Any, *arguments: Any, **options: Any) -> Any:
        started = time.time()
        record = run(*arguments, **options)
        stages[name] = (started, time.time())
        return record

    def process() -> Any:
        return processing.stage("example://flights", "arr_delay", ProcessOptions(), storage_uri=storage_uri).run()

    dataset = timed("process", process)
    train, tune = TrainOptions(), TuneOptions(trials=trials)
    search = tuning.stage(dataset, tune, loop=train.loop, hyperparameters={}, storage_uri=storage_uri)
    tuned = timed("tune", search.run)
    best = tuned.best.hyperparameters
    model = timed("train", training.stage(dataset, train, hyperparameters=best, storage_uri=storage_uri).run)
    version = timed("register", registry.registration(model, tune=tuned, **uris).run)
    rival = registry.rival(version, tracking_uri=tracking_uri)
    champion_uri = rival.uri if rival else None
    judging = evaluation.stage(version.uri, dataset, champion_uri=champion_uri, options=EvaluateOptions(), **uris)
    evaluated = timed("evaluate", judging.run)
    checking = check.stage(version.uri, dataset, options=ServeCheckOptions(), **uris)
    checked = timed("check-serving", checking.run)
    decision = timed("promote", registry.promote, version, evaluated, checked, PromoteOptions(), **uris)
    assert decision.promoted, decision.reason
    began = time.time()
    run = report.Run(
        title=dataset.name,
        dataset=manifest.load(dataset),
        tune=tuned,
        model=model,
        version=version,
        evaluation=evaluated,
        serve_check=checked,
        decision=decision,
        links={},
        seconds={name: end - at for name, (at, end) in stages.items()},
    )
    report.write(f"{storage_uri}/report.html", report.html(**run))
    stages["report"] = (began, time.time())
    Path(answer).write_text(json.dumps(stages))
    ray.release()


@contextlib.contextmanager
def running(home: Path) -> Generator[dict[str, str]]:
    """A Ray and a Prefect server for all runs within the block. Gives the settings by which a run finds them."""
    from rayworks.free_port import free_port

    ray_port, prefect_port = free_port(), free_port()
    tools, own = Path(sys.executable).parent, {**os.environ, "PREFECT_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    head = ["--head", "--block", f"--port={ray_port}", "--node-ip-address=127.0.0.1"]
    server = ["server", "start", "--port", str(prefect_port)]
    api_url = f"http://127.0.0.1:{prefect_port}/api"
    with contextlib.ExitStack() as stack:
        head.append(
            f"--temp-dir={stack.enter_context(tempfile.TemporaryDirectory(prefix='rayworks-'))}"
        )  # no other finds it
        for command in ([tools / "ray", "start", *head], [tools / "prefect", *server]):
            process = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", ray_port)).close()
                urllib.request.urlopen(f"{api_url}/health").close()
                break
            time.sleep(0.2)
        else:
            sys.exit("Ray and Prefect did not answer within two minutes")
        time.sleep(10)  # until what both do at their start is done
        yield {"RAYWORKS_RAY_ADDRESS": f"127.0.0.1:{ray_port}", "PREFECT_API_URL": api_url}


def run(side: str, storage: Path, home: Path, services: dict[str, str], trials: str) -> dict[str, Any]:
    """Run one side as a command. Returns its seconds, in all and by stage."""
    storage.mkdir(exist_ok=True)
    answer = storage / "stages.json"
    own = {"PREFECT_HOME": str(home), "RAYWORKS_STORAGE_URI": str(storage), **services}
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "RAYWORKS_RAY_ADDRESS")
    }
    flow = [str(ROOT / "flows" / "pipeline.py"), f"--tune.trials={trials}"]
    script = ["-c", f"from benchmarks.pipeline import plain; plain({str(storage)!r}, {str(answer)!r}, {trials})"]
    began = time.time()
    with (storage / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *(flow if side == "rayworks" else script)],
            env={**inherited, **own},
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        watch = Watch(process.pid)
        watch.until(lambda: process.poll() is not None)
        ended = time.time()
    if process.returncode:
        sys.exit((storage / "output.txt").read_text())
    stages = _of_flow(home, began) if side == "rayworks" else json.loads(answer.read_text())
    first = min(start for start, _ in stages.values())
    last = max(end for _, end in stages.values())
    return {
        "total": ended - began,
        "CPU": watch.cpu,
        "peak": watch.peak / 2**30,
        "start": first - began,
        "stages": last - first,
        "end": ended - last,
        **{name: end - start for name, (start, end) in stages.items()},
    }


def _of_flow(home: Path, since: float) -> dict[str, tuple[float, float]]:
    """When each task run of the last flow run began and ended, from Prefect's database, once it has stored them."""
    question = """
        select name, (julianday(start_time) - 2440587.5) * 86400, (julianday(end_time) - 2440587.5) * 86400
        from task_run where julianday(start_time) > ? / 86400 + 2440587.5
    """
    for _ in range(300):
        with sqlite3.connect(home / "prefect.db") as database:
            runs = database.execute(question, (since,)).fetchall()
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
        with running(home) if services == "running" else contextlib.nullcontext({}) as found:
            for number in range(int(repeats)):
                for kind in runs:
                    runs[kind].append([])
                for side in SIDES:
                    for kind in runs:
                        runs[kind][-1].append(run(side, Path(name) / f"{side}-{number}", home, found, trials))
    for kind, title in {"first": "First run, empty storage", "second": "Second run, all is there"}.items():
        for pair in runs[kind]:
            sys.stdout.write(f"\n{title}\n\n| seconds | script | rayworks | ratio |\n|---|---|---|---|\n")
            for row in ("total", "CPU", "start", "stages", "end", *STAGES):
                plain, ours = (of.get(row) for of in pair)
                ratio = f"{ours / plain:.2f}" if plain and ours else ""
                cells = " | ".join("" if value is None else f"{value:.1f}" for value in (plain, ours))
                sys.stdout.write(f"| {row} | {cells} | {ratio} |\n")
    sys.stdout.write(json.dumps(runs) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
