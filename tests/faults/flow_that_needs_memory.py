"""A flow whose task takes all memory that it gets, or only as long as it has asked for little.

python flow_that_needs_memory.py greedy|growing
"""

import sys
import time

from prefect import flow, task
from prefect.client.orchestration import get_client

from rayworks import RayTaskRunner, ray_running, resources
from rayworks.prefect_api import server


def take_all() -> None:
    taken = []
    for _ in range(60):
        taken.append(bytearray(100_000_000))
        time.sleep(0.02)
    time.sleep(30)


@task
def greedy() -> None:
    take_all()


@task
@resources(memory=100_000_000, max_memory=400_000_000)
def growing() -> float:
    import ray

    had = ray.get_runtime_context().get_assigned_resources()["memory"]
    if had < 400_000_000:
        take_all()
    return had


@flow(task_runner=RayTaskRunner())
def needs_memory(what: str) -> float | None:
    return {"greedy": greedy, "growing": growing}[what].submit().result()


if __name__ == "__main__":
    server = server.start()
    assert server is not None
    server.wait()
    try:
        with ray_running(init_kwargs={"num_cpus": 1, "object_store_memory": 100_000_000}):
            sys.stdout.write(f"it had {(needs_memory(sys.argv[1]) or 0) / 1e6:.0f} MB in the end\n")
    finally:
        with get_client(sync_client=True) as client:
            for run in client.read_task_runs():
                assert run.state is not None
                sys.stdout.write(
                    f"the state of {run.name.partition('-')[0]} is {run.state.type.value}: {run.state.message}\n"
                )
        server.stop()
