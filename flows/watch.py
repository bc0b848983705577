"""Look for new data, and retrain when they arrive."""

from typing import Annotated

from prefect import flow

from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.monitoring.options import RetrainOptions, Source, WatchedName, WatchName, WatchOptions, Window
from rayworks.params import (
    DataTarget,
    EvaluateOptions,
    ProcessOptions,
    PromoteOptions,
    ServeCheckOptions,
    TrainOptions,
    TuneOptions,
)
from tasks.watch import watch as watch_task


@flow(name="watch", flow_run_name="{watch}")
def watch(
    watch: WatchName,
    source: Source,
    target: DataTarget,
    name: WatchedName = None,
    options: Annotated[WatchOptions, parameter("Options")] = WatchOptions(),
    retraining: Annotated[RetrainOptions, parameter("Retraining")] = RetrainOptions(),
    window: Annotated[Window, parameter("Data window")] = Window(),
    process: Annotated[ProcessOptions, parameter("Process")] = ProcessOptions(),
    tune: Annotated[TuneOptions, parameter("Tune")] = TuneOptions(),
    train: Annotated[TrainOptions, parameter("Train")] = TrainOptions(),
    evaluate: Annotated[EvaluateOptions, parameter("Evaluate")] = EvaluateOptions(),
    serve_check: Annotated[ServeCheckOptions, parameter("Serve check")] = ServeCheckOptions(),
    promote: Annotated[PromoteOptions, parameter("Promote")] = PromoteOptions(),
) -> list[str]:
    """Make a batch of the files that are new at a source, and start one retraining for it. Does not start Ray.

    Schedule it, every minute for example. Each schedule with a name and parameters of its own is a watch.
    """
    retrain = {"target": target, "name": name or watch}
    groups = {
        "retraining": retraining,
        "window": window,
        "process": process,
        "tune": tune,
        "train": train,
        "evaluate": evaluate,
        "serve_check": serve_check,
        "promote": promote,
    }
    parameters = {group: chosen.model_dump(mode="json") for group, chosen in groups.items()}
    return watch_task(watch, source, options, {**retrain, **parameters})


if __name__ == "__main__":
    run(watch)
