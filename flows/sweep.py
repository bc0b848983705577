"""Delete RayClusters that are no longer used."""

from typing import Annotated

from prefect import flow

from rayworks.command_line import run
from rayworks.form import parameter
from tasks.sweep import sweep as sweep_task


@flow(name="sweep")
def sweep(
    namespace: Annotated[
        str | None, parameter("Namespace", "Kubernetes namespace. None: the namespace of this run.")
    ] = None,
) -> list[str]:
    """Delete RayClusters whose flow runs are lost, and shared ones after their idle time. Does not start Ray."""
    return sweep_task(namespace)


if __name__ == "__main__":
    run(sweep)
