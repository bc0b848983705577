"""Go back to the previous champion."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import ModelName
from rayworks.records import ModelVersion
from tasks.rollback import rollback as rollback_task


@flow(name="rollback", task_runner=RayTaskRunner())
def rollback(
    name: ModelName,
    lift: Annotated[
        bool, parameter("Lift the hold", "Let models be promoted again after a rollback. The champion stays as it is.")
    ] = False,
) -> ModelVersion:
    """Make the previous champion the champion again, and hold it: until the hold is lifted, nothing is promoted.

    Services that follow the alias switch within seconds.
    """
    return rollback_task.submit(name, lift).result()


if __name__ == "__main__":
    run(rollback)
