"""Seconds from a command to the body of its first task, step by step, with rayworks and with prefect-ray.

    python benchmarks/start.py [REPEATS] [SIDES]        1   ray,flow

``flow``: both run a flow of one task, as a command, on a new home of Prefect and then again on the same. The task
records when it starts. The flow with prefect-ray uses Prefect's own temporary server.

``ray``: an embedded Ray alone, by rayworks and by ``ray.init``, each in a new process that has imported it. Seconds
until the result of a first task.
"""

import atexit
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASK = """
import os, pathlib, time
from prefect import flow, task

@task
def body() -> None:
    pathlib.Path(os.environ["BODY"]).write_text(str(time.time()))
"""
OURS = f"""{TASK}
from rayworks.command_line import run
from rayworks import RayTaskRunner

@flow(task_runner=RayTaskRunner())
def small() -> None:
    body.submit().result()

run(small)
"""
PLAIN = f"""{TASK}
from prefect_ray import RayTaskRunner

@flow(task_runner=RayTaskRunner())
def small() -> None:
    body.submit().result()

small()
"""
RAY = """
import os, sys, time
import ray
from rayworks.cluster import places
from rayworks.cluster.embedded import EmbeddedRay

side, arguments = sys.argv[1], {} if sys.argv[2] == "with" else {"include_dashboard": False}
places.prepare()
os.environ["RAY_AUTH_MODE"] = "disabled"
embedded = EmbeddedRay()
began = time.monotonic()
if side == "rayworks":
    embedded.acquire({}, arguments)
else:
    ray.init("local", logging_level="ERROR", **arguments)
ray.get(ray.remote(lambda: None).remote())
print(time.monotonic() - began)
embedded.release()
"""
STEPS = (
    "imports",
    "server started",
    "Ray connected",
    "server responds",
    "first submit",
    "first body",
    "flow ended",
    "exit",
)


def trace() -> None:
    """Record when this process reaches each step, and write the times to a file when it exits."""
    marks: dict[str, float] = {}

    def mark(module: str, path: str, before: str = "", after: str = "") -> None:
        """Record the time before or after a function is called."""
        owner: Any = sys.modules.get(module) or __import__(module, fromlist=["_"])
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            if before:
                marks.setdefault(before, time.time())
            result = function(*arguments, **options)
            if after:
                marks.setdefault(after, time.time())
            return result

        setattr(owner, name, timed)

    mark("rayworks.command_line", "_run", before="imports")
    mark("rayworks.prefect_api.server", "start", after="server started")
    mark("rayworks.prefect_api.server", "EmbeddedServer.wait", after="server responds")
    mark("rayworks.cluster.embedded", "EmbeddedRay.acquire", after="Ray connected")
    mark("rayworks.runner.task_runner", "RayTaskRunner.submit", before="first submit")
    mark("rayworks.command_line", "_run_with_progress", after="flow ended")
    atexit.register(lambda: Path(os.environ["MARKS"]).write_text(json.dumps(marks)))


def run(program: str, folder: Path) -> dict[str, float]:
    """Seconds from the start of the command to each recorded step."""
    script, body, marks = folder / "program.py", folder / "body", folder / "marks.json"
    script.write_text(program)
    settings = {
        "PREFECT_HOME": str(folder / "prefect"),
        "RAYWORKS_STORAGE_URI": str(folder / "storage"),
        "BODY": str(body),
        "MARKS": str(marks),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # Without these two, prefect-ray fails on a new home, and waits for a host on the internet.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAYWORKS_"))}
    tracing = "from benchmarks.start import trace; trace(); " if program == OURS else ""
    command = [sys.executable, "-c", f"{tracing}exec(compile(open({str(script)!r}).read(), {str(script)!r}, 'exec'))"]
    began = time.time()
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, **settings}, capture_output=True, text=True, check=False
    )
    ended = time.time()
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    steps = {"first body": float(body.read_text()), "exit": ended}
    if program == OURS:
        steps |= json.loads(marks.read_text())
    return {step: at - began for step, at in steps.items()}


def ray_alone(repeats: int) -> None:
    """Print how long an embedded Ray takes to its first result, by both sides in turn."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for dashboard in ("with", "without"):
            for side in ("rayworks", "ray.init"):
                command = [sys.executable, "-c", RAY, side, dashboard]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                seconds.setdefault((side, dashboard), []).append(float(done.stdout))
    sys.stdout.write(
        "Seconds until an embedded Ray returns a first result\n\n| | with a dashboard | without |\n|---|---|---|\n"
    )
    for side in ("rayworks", "ray.init"):
        medians = [f"{statistics.median(seconds[side, dashboard]):.1f}" for dashboard in ("with", "without")]
        sys.stdout.write(f"| {side} | {' | '.join(medians)} |\n")
    sys.stdout.write(f"{list(seconds.items())}\n")


def flows(repeats: int) -> None:
    """Print how long a command takes to each step, by both sides."""
    seconds: dict[str, list[dict[str, float]]] = {}
    for _ in range(repeats):
        for side, program in (("rayworks", OURS), ("prefect-ray", PLAIN)):
            with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
                for home in ("new", "used"):
                    seconds.setdefault(f"{side}, {home} home", []).append(run(program, Path(folder)))
    sys.stdout.write(
        f"Seconds from the command to each step\n\n| | {' | '.join(STEPS)} |\n{'|---' * (len(STEPS) + 1)}|\n"
    )
    for name, runs in seconds.items():
        medians = [f"{statistics.median(run[step] for run in runs):.1f}" if step in runs[0] else "" for step in STEPS]
        sys.stdout.write(f"| {name} | {' | '.join(medians)} |\n")
    sys.stdout.write(json.dumps(seconds) + "\n")


def main(repeats: str = "1", sides: str = "ray,flow") -> None:
    measured = {"ray": ray_alone, "flow": flows}
    for side in sides.split(","):
        measured[side](int(repeats))


if __name__ == "__main__":
    main(*sys.argv[1:])
