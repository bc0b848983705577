"""Train a model again with a batch of new data, and promote it if it is better."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.monitoring.options import Arrived, BatchNumber, RetrainOptions, Source, WatchedName, WatchName, Window
from rayworks.params import (
    DataTarget,
    EvaluateOptions,
    ProcessOptions,
    PromoteOptions,
    ServeCheckOptions,
    TrainOptions,
    TuneOptions,
)
from rayworks.records import Report
from tasks.arrived_files import arrived_files
from tasks.check_batch import check_batch
from tasks.check_serving import check_serving
from tasks.close_batch import close_batch
from tasks.evaluate import evaluate as evaluate_task
from tasks.open_champion import open_champion
from tasks.process import process as process_task
from tasks.promote import promote as promote_task
from tasks.reason_to_skip import reason_to_skip
from tasks.register import register
from tasks.report import report
from tasks.train import train as train_task
from tasks.tune import tune as tune_task


@flow(name="retrain", task_runner=RayTaskRunner())
def retrain(
    watch: WatchName,
    batch: BatchNumber,
    source: Source,
    target: DataTarget,
    name: WatchedName = None,
    arrived: Arrived = (),
    retraining: Annotated[RetrainOptions, parameter("Retraining")] = RetrainOptions(),
    window: Annotated[Window, parameter("Data window")] = Window(),
    process: Annotated[ProcessOptions, parameter("Process")] = ProcessOptions(),
    tune: Annotated[TuneOptions, parameter("Tune")] = TuneOptions(),
    train: Annotated[TrainOptions, parameter("Train")] = TrainOptions(),
    evaluate: Annotated[EvaluateOptions, parameter("Evaluate")] = EvaluateOptions(),
    serve_check: Annotated[ServeCheckOptions, parameter("Serve check")] = ServeCheckOptions(),
    promote: Annotated[PromoteOptions, parameter("Promote")] = PromoteOptions(),
) -> Report | list[str]:
    """Learn from a batch of a watch and the data before it, and promote the model if it beats the champion.

    Returns the report, or why nothing was trained for the batch.
    """
    rival = open_champion.submit(name or watch).result()
    if reason := reason_to_skip.submit(watch, batch, source, rival, process, retraining).result():
        close_batch.submit(watch, batch, "skipped", reason).result()
        return [reason]
    files = arrived_files.submit(watch, batch, source, process, window).result()
    dataset = process_task.submit(source, target, process, name or watch, files, rival, promote.minimum_rows).result()
    check_batch.submit(watch, batch, dataset).result()
    tuned = tune_task.submit(dataset, tune, train, rival, retraining.search_days).result()
    model = train_task.submit(dataset, train, tuned).result()
    version = register.submit(model, tuned).result()
    evaluation = evaluate_task.submit(version, dataset, evaluate).result()
    checked = check_serving.submit(version, dataset, serve_check).result()
    decision = promote_task.submit(version, evaluation, checked, promote).result()
    page = report.submit(dataset, tuned, model, version, evaluation, checked, decision).result()
    # Last: a batch that is not closed is tried again.
    close_batch.submit(watch, batch, "done", f"{decision.reason} Report: {page.address}").result()
    return page


if __name__ == "__main__":
    run(retrain)
