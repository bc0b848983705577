"""Go back to the previous champion."""

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.params import ModelName
from rayworks.records import ModelVersion
from tasks.rollback import rollback as rollback_task


@flow(name="rollback", task_runner=RayTaskRunner())
def rollback(name: ModelName) -> ModelVersion:
    """Make the previous champion the champion again. Services that follow the alias switch within seconds."""
    return rollback_task.submit(name).result()


if __name__ == "__main__":
    run(rollback)
