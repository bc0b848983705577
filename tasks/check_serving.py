"""A candidate to the finding whether it can be served."""

from typing import Any

from prefect import task

from rayworks import resources, storage
from rayworks.params import ServeCheckOptions
from rayworks.prefect_api.task_progress import TaskProgress, reused
from rayworks.records import DatasetRef, ModelVersion, ServeCheck
from rayworks.serving import application, check
from rayworks.settings import Settings


@task(name="check-serving")
@resources(num_cpus=0, resources=application.HEAD_NODE)
def check_serving(candidate: ModelVersion, dataset: DatasetRef, options: ServeCheckOptions) -> ServeCheck | Any:
    """Serve the candidate beside the champion, and compare its responses with the model's own predictions."""
    settings = Settings()
    storage_uri = settings.storage_uri
    where = check.location(candidate.uri, dataset, options, storage_uri=storage_uri)
    if storage.exists(where) and (stored := storage.read_record(where, ServeCheck)).passed:
        return reused(stored, where)
    return check.check_candidate(
        candidate.uri,
        dataset,
        options=options,
        tracking_uri=settings.tracking_uri(),
        storage_uri=storage_uri,
        progress=TaskProgress(),
    )
