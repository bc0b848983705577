"""A flow whose task allocates all memory, always or only until it was given enough.

python flow_that_needs_memory.py greedy|growing
"""

import sys

from prefect import flow, task
from prefect.client.orchestration import get_client
from too_much_memory import allocate_all

from rayworks import RayTaskRunner, ray_running, resources
from rayworks.prefect_api import server


@task
def greedy() -> None:
    allocate_all()


@task
@resources(memory=100_000_000, max_memory=400_000_000)
def growing() -> float:
    import ray

    memory = ray.get_runtime_context().get_assigned_resources()["memory"]
    if memory < 400_000_000:
        allocate_all()
    return memory


@flow(task_runner=RayTaskRunner())
def needs_memory(task: str) -> float | None:
    return {"greedy": greedy, "growing": growing}[task].submit().result()


if __name__ == "__main__":
    server = server.start()
    assert server is not None
    server.wait()
    try:
        with ray_running(init_kwargs={"num_cpus": 1, "object_store_memory": 100_000_000}):
            memory = needs_memory(sys.argv[1]) or 0
            sys.stdout.write(f"its last run had {memory / 1e6:.0f} MB\n")
    finally:
        with get_client(sync_client=True) as client:
            for run in client.read_task_runs():
                name, state = run.name.partition("-")[0], run.state
                assert state is not None
                sys.stdout.write(f"the state of {name} is {state.type.value}: {state.message}\n")
        server.stop()
