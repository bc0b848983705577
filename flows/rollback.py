"""Go back to the previous champion."""

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.params import LiftHold, ModelName
from rayworks.records import ModelVersion
from tasks.rollback import rollback as rollback_task


@flow(name="rollback", task_runner=RayTaskRunner())
def rollback(name: ModelName, lift: LiftHold = False) -> ModelVersion:
    """Make the previous champion the champion again, and hold it: until the hold is lifted, nothing is promoted.

    Services that follow the alias switch within seconds.
    """
    return rollback_task.submit(name, lift).result()


if __name__ == "__main__":
    run(rollback)
