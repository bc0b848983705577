"""The cost of a mapped task: rayworks, prefect-ray, Prefect's threads and bare Ray tasks, side by side.

Usage: ``python benchmarks/map.py [tasks] [repeats]``. Prints a table and, as its last line, JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect_ray import RayTaskRunner as PrefectRayTaskRunner

from rayworks import RayTaskRunner, ray_running
from rayworks.prefect_api import server

FINAL_SECONDS = 120


@task
def double(number: int) -> int:
    return 2 * number


def mapped(runner: TaskRunner[Any], tasks: int) -> tuple[float, str]:
    """Seconds from the first submit to the last result, and the ID of the flow run."""

    @flow(task_runner=runner, name="map")
    def run() -> float:
        double.submit(0).result()  # the first task starts a worker
        start = time.perf_counter()
        futures = double.map(range(tasks))
        assert sum(future.result() for future in futures) == tasks * (tasks - 1)
        return time.perf_counter() - start

    state = run(return_state=True)
    return state.result(), str(state.state_details.flow_run_id)


def bare_ray(tasks: int) -> tuple[float, None]:
    import ray

    remote = ray.remote(double.fn)
    ray.get(remote.remote(0))
    start = time.perf_counter()
    assert sum(ray.get([remote.remote(number) for number in range(tasks)])) == tasks * (tasks - 1)
    return time.perf_counter() - start, None


def lost(flow_run_id: str | None, tasks: int) -> int:
    """How many task runs the server does not show as Completed after the time that it may take to store them."""
    if flow_run_id is None:
        return 0
    completed_of_run = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    deadline = time.monotonic() + FINAL_SECONDS
    with get_client(sync_client=True) as client:
        while True:
            completed = client.request("POST", "/task_runs/count", json=completed_of_run).json()
            if completed > tasks or time.monotonic() > deadline:
                return tasks + 1 - completed
            time.sleep(0.5)


def main(tasks: int = 1000, repeats: int = 3) -> None:
    ways: dict[str, Callable[[], tuple[float, str | None]]] = {
        "rayworks": lambda: mapped(RayTaskRunner(), tasks),
        "prefect-ray": lambda: mapped(PrefectRayTaskRunner(), tasks),
        "threads": lambda: mapped(ThreadPoolTaskRunner(), tasks),
        "bare Ray": lambda: bare_ray(tasks),
    }
    embedded = server.start()
    with ray_running():
        if embedded:
            embedded.wait()
        measured: dict[str, list[float]] = {way: [] for way in ways}
        missing = dict.fromkeys(ways, 0)
        for _ in range(repeats):
            for way, run in ways.items():
                seconds, flow_run_id = run()
                measured[way].append(1000 * seconds / tasks)
                missing[way] += lost(flow_run_id, tasks)
    medians = {way: statistics.median(times) for way, times in measured.items()}
    for way, median in medians.items():
        sys.stdout.write(f"{way:12} {median:8.2f} ms a task   {missing[way]} lost\n")
    sys.stdout.write(json.dumps({"tasks": tasks, "ms": medians, "all_ms": measured, "lost": missing}) + "\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
