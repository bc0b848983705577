"""Evaluate a registered model beside the baseline and the champion."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import DatasetUri, EvaluateOptions, ModelUri
from rayworks.records import Report
from tasks.evaluate import evaluate as evaluate_task
from tasks.open_dataset import open_dataset
from tasks.open_model import open_model
from tasks.report import report


@flow(name="evaluate", task_runner=RayTaskRunner())
def evaluate(
    model_uri: ModelUri,
    dataset_uri: DatasetUri,
    options: Annotated[EvaluateOptions, parameter("Options")] = EvaluateOptions(),
) -> Report:
    """Score a registered model on the hold-out rows of a dataset, overall and by slice."""
    dataset = open_dataset.submit(dataset_uri).result()
    version = open_model.submit(model_uri).result()
    evaluation = evaluate_task.submit(version, dataset, options).result()
    return report.submit(dataset, version=version, evaluation=evaluation).result()


if __name__ == "__main__":
    run(evaluate)
