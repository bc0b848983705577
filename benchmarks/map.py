"""The cost of a mapped task: rayworks, prefect-ray, Prefect's threads and bare Ray tasks, side by side.

Usage: ``python benchmarks/map.py [tasks] [repeats] [side …]``. Prints a table and, as its last line, JSON. A task has
two costs: until the flow has all results, and until the Prefect server shows all task runs as Completed.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect_ray import RayTaskRunner as PrefectRayTaskRunner

from rayworks import RayTaskRunner, ray_running
from rayworks.prefect_api import server

FINAL_SECONDS = 60


@task
def double(number: int) -> int:
    return 2 * number


@dataclass(frozen=True)
class Mapped:
    """What a map of many tasks took, in seconds from its first submit."""

    results: float
    """Until the last result."""
    shown: float
    """Until the server showed all task runs as Completed, or nothing changed any more."""
    lost: int
    """Task runs that the server does not show as Completed."""


def mapped(runner: TaskRunner[Any], tasks: int) -> Mapped:
    """Map a task in a flow, and wait until the server has stored what it will store."""
    start = 0.0

    @flow(task_runner=runner, name="map")
    def run() -> float:
        nonlocal start
        double.submit(0).result()  # the first task starts a worker
        start = time.perf_counter()
        futures = double.map(range(tasks))
        assert sum(future.result() for future in futures) == tasks * (tasks - 1)
        return time.perf_counter() - start

    state = run(return_state=True)
    lost = wait_until_shown(str(state.state_details.flow_run_id), tasks + 1)
    return Mapped(state.result(), time.perf_counter() - start, lost)


def bare_ray(tasks: int) -> Mapped:
    import ray

    remote = ray.remote(double.fn)
    ray.get(remote.remote(0))
    start = time.perf_counter()
    assert sum(ray.get([remote.remote(number) for number in range(tasks)])) == tasks * (tasks - 1)
    seconds = time.perf_counter() - start
    return Mapped(seconds, seconds, 0)


def wait_until_shown(flow_run_id: str, task_runs: int) -> int:
    """Wait until the server shows all as Completed, or their number did not change for ``FINAL_SECONDS``.

    Returns:
        How many it does not show as Completed.
    """
    completed_of_run = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    before, changed = -1, time.monotonic()
    with get_client(sync_client=True) as client:
        while True:
            completed = client.request("POST", "/task_runs/count", json=completed_of_run).json()
            if completed != before:
                before, changed = completed, time.monotonic()
            if completed >= task_runs or time.monotonic() > changed + FINAL_SECONDS:
                return task_runs - completed
            time.sleep(0.5)


def main(tasks: int = 1000, repeats: int = 3, chosen: Sequence[str] = ()) -> None:
    ways: dict[str, Callable[[], Mapped]] = {
        "rayworks": lambda: mapped(RayTaskRunner(), tasks),
        "prefect-ray": lambda: mapped(PrefectRayTaskRunner(), tasks),
        "threads": lambda: mapped(ThreadPoolTaskRunner(), tasks),
        "bare Ray": lambda: bare_ray(tasks),
    }
    embedded = server.start()
    with ray_running():
        if embedded:
            embedded.wait()
        measured: dict[str, list[Mapped]] = {way: [] for way in chosen or ways}
        for _ in range(repeats):
            for way, runs in measured.items():
                runs.append(ways[way]())
    sys.stdout.write(f"{'':12} {'ms a task':>10} {'until shown':>12} {'lost':>6}\n")
    for way, runs in measured.items():
        results, shown = (
            1000 * statistics.median(seconds) / tasks
            for seconds in ([run.results for run in runs], [run.shown for run in runs])
        )
        sys.stdout.write(f"{way:12} {results:10.2f} {shown:12.2f} {sum(run.lost for run in runs):6}\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sides = {way: [asdict(run) for run in runs] for way, runs in measured.items()}
    sys.stdout.write(json.dumps({"tasks": tasks, "most_mib_of_driver": memory, "seconds": sides}) + "\n")


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:3]), chosen=sys.argv[3:])
