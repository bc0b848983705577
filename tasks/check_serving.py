"""A candidate to the finding whether it can be served."""

from prefect import task

from rayworks.params import ServeCheckOptions
from rayworks.records import DatasetRef, ModelVersion, ServeCheck
from rayworks.runner import resources
from rayworks.settings import Settings
from rayworks.stages import serving
from rayworks.task_progress import TaskProgress


@task(name="check-serving")
@resources(num_cpus=0, resources=serving.HEAD)
def check_serving(candidate: ModelVersion, dataset: DatasetRef, options: ServeCheckOptions) -> ServeCheck:
    """Serve the candidate for a trial, and compare its answers with the model's own."""
    settings = Settings()
    return serving.check(
        candidate.uri, dataset, options=options, tracking_uri=settings.tracking_uri(), storage_uri=settings.storage_uri,
        progress=TaskProgress(),
    )  # fmt: skip
