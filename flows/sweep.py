"""RayClusters that nobody uses any more to nothing."""

from prefect import flow

from rayworks.command_line import run
from rayworks.params import Namespace
from tasks.sweep import sweep as sweep_task


@flow(name="sweep")
def sweep(namespace: Namespace = None) -> list[str]:
    """Delete RayClusters whose runs are gone, and shared ones that were idle for their time. Needs no Ray."""
    return sweep_task(namespace)


if __name__ == "__main__":
    run(sweep)
