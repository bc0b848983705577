"""Back to the champion before this one."""

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.params import ModelName
from rayworks.records import ModelVersion
from tasks.rollback import rollback as rollback_task


@flow(name="rollback", task_runner=RayTaskRunner())
def rollback(name: ModelName) -> ModelVersion:
    """Make the champion's predecessor the champion again. What serves the alias answers with it from its next reload."""
    return rollback_task.submit(name).result()


if __name__ == "__main__":
    run(rollback)
