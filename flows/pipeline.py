"""Take data to a promoted model: process, tune, train, register, evaluate, check serving, promote, report."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import (
    DataName,
    DataTarget,
    DataUri,
    EvaluateOptions,
    ProcessOptions,
    PromoteOptions,
    ServeCheckOptions,
    TrainOptions,
    TuneOptions,
)
from rayworks.records import Report
from tasks.check_serving import check_serving
from tasks.evaluate import evaluate as evaluate_task
from tasks.process import process as process_task
from tasks.promote import promote as promote_task
from tasks.register import register
from tasks.report import report
from tasks.train import train as train_task
from tasks.tune import tune as tune_task


@flow(name="pipeline", task_runner=RayTaskRunner())
def pipeline(
    uri: DataUri = "example://flights",
    target: DataTarget = "arr_delay",
    name: DataName = None,
    process: Annotated[ProcessOptions, parameter("Process")] = ProcessOptions(),
    tune: Annotated[TuneOptions, parameter("Tune")] = TuneOptions(),
    train: Annotated[TrainOptions, parameter("Train")] = TrainOptions(),
    evaluate: Annotated[EvaluateOptions, parameter("Evaluate")] = EvaluateOptions(),
    serve_check: Annotated[ServeCheckOptions, parameter("Serve check")] = ServeCheckOptions(),
    promote: Annotated[PromoteOptions, parameter("Promote")] = PromoteOptions(),
) -> Report:
    """Take data to a promoted model. Only the URI and the target are needed; everything else is inferred."""
    dataset = process_task.submit(uri, target, process, name).result()
    tuned = tune_task.submit(dataset, tune, train).result()
    model = train_task.submit(dataset, train, tuned).result()
    version = register.submit(model, tuned).result()
    evaluation = evaluate_task.submit(version, dataset, evaluate).result()
    # Not beside the evaluation: starting another worker and importing everything there takes as long as it would save.
    checked = check_serving.submit(version, dataset, serve_check).result()
    decision = promote_task.submit(version, evaluation, checked, promote).result()
    return report.submit(dataset, tuned, model, version, evaluation, checked, decision).result()


if __name__ == "__main__":
    run(pipeline)
