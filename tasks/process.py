"""Turn raw data into a dataset."""

from collections.abc import Sequence

from prefect import task

from rayworks import resources
from rayworks.data import manifest, processing, splitting
from rayworks.params import ProcessOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import Champion, DatasetRef
from rayworks.settings import Settings


@task(name="process")
@resources(num_cpus=0, shared_storage=True)
def process(
    uri: str | list[str],
    target: str,
    options: ProcessOptions,
    name: str | None = None,
    only: Sequence[str] | None = None,
    champion: Champion | None = None,
    minimum_rows: int = 2,
) -> DatasetRef:
    """Validate, split and store raw data as Parquet, with features and statistics.

    Args:
        only: The URIs of the files to read of those at ``uri``.
        champion: What a model of the dataset is to be compared with, on rows that neither has learned from.
        minimum_rows: How many of these a promotion needs.
    """
    learned = None
    if champion:
        dataset = manifest.load(champion.dataset) if champion.dataset else None
        learned = splitting.learned(dataset, minimum_rows)
    storage_uri = Settings().storage_uri
    stage = processing.stage(uri, target, options, storage_uri=storage_uri, name=name, only=only, champion=learned)
    return run_stage(stage)
