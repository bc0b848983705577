"""Search the best hyperparameters for a dataset within a budget."""

from datetime import UTC, datetime

from prefect import get_run_logger, task

from rayworks import resources
from rayworks.params import TrainOptions, TuneOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import Champion, DatasetRef, TuneResult
from rayworks.settings import Settings
from rayworks.training import search_space, tuning


@task(name="tune")
@resources(num_cpus=0, shared_storage=True)
def tune(
    dataset: DatasetRef,
    options: TuneOptions,
    train: TrainOptions,
    champion: Champion | None = None,
    search_days: float | None = 0,
) -> TuneResult | None:
    """Search hyperparameters for the training loop. Skipped with 0 trials, or if there is nothing to search.

    Args:
        champion: Its search is used again, unless that is too old or for another loop.
        search_days: After how many days it is too old. None: never.
    """
    if options.trials == 0 or not search_space.of(options, train.loop, train.hyperparameters):
        return None
    last = tuning.find(champion.tune_uri) if champion and champion.tune_uri else None
    if last and not tuning.is_due(last, train.loop, search_days, datetime.now(UTC)):
        get_run_logger().info("The hyperparameters are those of the search that ended at %s", last.ended)
        return last
    return run_stage(tuning.stage(dataset, options, train, storage_uri=Settings().storage_uri))
