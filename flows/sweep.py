"""Delete RayClusters that are no longer used."""

from prefect import flow

from rayworks.command_line import run
from rayworks.params import Namespace
from tasks.sweep import sweep as sweep_task


@flow(name="sweep")
def sweep(namespace: Namespace = None) -> list[str]:
    """Delete RayClusters whose flow runs are lost, and shared ones after their idle time. Does not start Ray."""
    return sweep_task(namespace)


if __name__ == "__main__":
    run(sweep)
