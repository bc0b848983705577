"""RayClusters that nobody uses any more to nothing."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from rayworks.command_line import run
from tasks.sweep import sweep as sweep_task


@flow(name="sweep")
def sweep(
    namespace: Annotated[
        str | None, Field(title="Namespace", description="Where to look. By default where this run is.")
    ] = None,
) -> list[str]:
    """Delete RayClusters whose runs are gone, and shared ones that were idle for their time. Needs no Ray."""
    return sweep_task(namespace)


if __name__ == "__main__":
    run(sweep)
