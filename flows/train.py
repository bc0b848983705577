"""Train a model on a dataset and register it as the candidate."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import DatasetUri, TrainOptions
from rayworks.records import Report
from tasks.open_dataset import open_dataset
from tasks.register import register
from tasks.report import report
from tasks.train import train as train_task


@flow(name="train", task_runner=RayTaskRunner())
def train(dataset_uri: DatasetUri, options: Annotated[TrainOptions, parameter("Options")] = TrainOptions()) -> Report:
    """Train a model, resume from its last checkpoint if a worker is lost, and register it as the candidate."""
    dataset = open_dataset.submit(dataset_uri).result()
    model = train_task.submit(dataset, options).result()
    version = register.submit(model).result()
    return report.submit(dataset, model=model, version=version).result()


if __name__ == "__main__":
    run(train)
