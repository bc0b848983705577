"""Turn raw data into a dataset: validated, split, with features and statistics."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import DataName, DataTarget, DataUris, ProcessOptions
from rayworks.records import Report
from tasks.process import process as process_task
from tasks.report import report


@flow(name="process", task_runner=RayTaskRunner())
def process(
    uri: DataUris = "example://flights",
    target: DataTarget = "arr_delay",
    name: DataName = None,
    options: Annotated[ProcessOptions, parameter("Options")] = ProcessOptions(),
) -> Report:
    """Create a dataset from Parquet, CSV or JSON lines. The summary shows its URI, a parameter of other flows."""
    dataset = process_task.submit(uri, target, options, name).result()
    return report.submit(dataset).result()


if __name__ == "__main__":
    run(process)
