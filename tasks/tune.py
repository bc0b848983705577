"""Search the best hyperparameters for a dataset within a budget."""

from prefect import task

from rayworks import resources
from rayworks.params import TrainOptions, TuneOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import DatasetRef, TuneResult
from rayworks.settings import Settings
from rayworks.training import search_space, tuning


@task(name="tune")
@resources(num_cpus=0, shared_storage=True)
def tune(dataset: DatasetRef, options: TuneOptions, train: TrainOptions) -> TuneResult | None:
    """Search hyperparameters for the training loop. Skipped with 0 trials, or if there is nothing to search."""
    if options.trials == 0 or not search_space.of(options, train.loop, train.hyperparameters):
        return None
    return run_stage(tuning.stage(dataset, options, train, storage_uri=Settings().storage_uri))
