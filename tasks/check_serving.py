"""Check that a candidate can be served."""

from prefect import task

from rayworks import resources
from rayworks.params import ServeCheckOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import DatasetRef, ModelVersion, ServeCheck
from rayworks.serving import application, check
from rayworks.settings import Settings


@task(name="check-serving")
@resources(num_cpus=0, resources=application.HEAD_NODE, shared_storage=True)
def check_serving(candidate: ModelVersion, dataset: DatasetRef, options: ServeCheckOptions) -> ServeCheck:
    """Serve the candidate beside the champion, and compare its responses with the model's own predictions."""
    settings = Settings()
    uris = {"tracking_uri": settings.tracking_uri(), "storage_uri": settings.storage_uri}
    return run_stage(check.stage(candidate, dataset, options=options, **uris))
