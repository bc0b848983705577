"""Train a model on a dataset."""

from prefect import task

from rayworks import resources
from rayworks.params import TrainOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import DatasetRef, ModelRef, TuneResult
from rayworks.settings import Settings
from rayworks.training import training


@task(name="train")
@resources(num_cpus=0, shared_storage=True)
def train(dataset: DatasetRef, options: TrainOptions, tuned: TuneResult | None = None) -> ModelRef:
    """Train a model with the hyperparameters of tuning, overridden by those of the options."""
    best = tuned.best.hyperparameters if tuned else None
    return run_stage(training.stage(dataset, options, hyperparameters=best, storage_uri=Settings().storage_uri))
