"""Search the best hyperparameters for a dataset within a budget."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import DatasetUri, TrainOptions, TuneOptions
from rayworks.records import Report
from tasks.open_dataset import open_dataset
from tasks.report import report
from tasks.tune import tune as tune_task


@flow(name="tune", task_runner=RayTaskRunner())
def tune(
    dataset_uri: DatasetUri,
    options: Annotated[TuneOptions, parameter("Options")] = TuneOptions(),
    train: Annotated[TrainOptions, parameter("Train")] = TrainOptions(),
) -> Report:
    """Search hyperparameters for a training loop, limited by trials and time."""
    dataset = open_dataset.submit(dataset_uri).result()
    tuned = tune_task.submit(dataset, options, train).result()
    return report.submit(dataset, tuned).result()


if __name__ == "__main__":
    run(tune)
