"""Apply a function to many items."""

from prefect import task
from prefect.artifacts import create_table_artifact

from rayworks import FanOutResult, ItemsError, resources
from rayworks.items import fan_out as items_stage
from rayworks.items.options import FanOutOptions
from rayworks.items.result import failure_rows
from rayworks.prefect_api.task_progress import run_stage
from rayworks.settings import Settings


@task(name="fan-out")
@resources(num_cpus=0, shared_storage=True)
def fan_out(function: str, items: str, options: FanOutOptions) -> FanOutResult:
    """Apply a function to each item in Ray tasks, and store results and failures."""
    try:
        return run_stage(items_stage.stage(function, items, options, storage_uri=Settings().storage_uri))
    except ItemsError as error:
        create_table_artifact(failure_rows(error.where), key="failures", description="Items that failed, the first 100")
        raise
