"""Promote a registered model to champion if it passes every check."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import DatasetUri, EvaluateOptions, ModelUri, PromoteOptions, ServeCheckOptions
from rayworks.records import Report
from tasks.check_serving import check_serving
from tasks.evaluate import evaluate as evaluate_task
from tasks.open_dataset import open_dataset
from tasks.open_model import open_model
from tasks.promote import promote as promote_task
from tasks.report import report


@flow(name="promote", task_runner=RayTaskRunner())
def promote(
    model_uri: ModelUri,
    dataset_uri: DatasetUri,
    options: Annotated[PromoteOptions, parameter("Options")] = PromoteOptions(),
    evaluate: Annotated[EvaluateOptions, parameter("Evaluate")] = EvaluateOptions(),
    serve_check: Annotated[ServeCheckOptions, parameter("Serve check")] = ServeCheckOptions(),
) -> Report:
    """Evaluate a model on the hold-out rows of a dataset, check its serving, and promote it if every check passes."""
    dataset = open_dataset.submit(dataset_uri).result()
    version = open_model.submit(model_uri).result()
    evaluation = evaluate_task.submit(version, dataset, evaluate).result()
    checked = check_serving.submit(version, dataset, serve_check).result()
    decision = promote_task.submit(version, evaluation, checked, options).result()
    return report.submit(
        dataset, version=version, evaluation=evaluation, serve_check=checked, decision=decision
    ).result()


if __name__ == "__main__":
    run(promote)
