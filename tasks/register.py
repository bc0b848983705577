"""Register a model as a version in the registry."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import registry
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import ModelRef, ModelVersion, TuneResult
from rayworks.settings import Settings


@task(name="register")
@resources(num_cpus=0, shared_storage=True)
def register(model: ModelRef, tuned: TuneResult | None = None) -> ModelVersion:
    """Register a model with its provenance, as the candidate."""
    settings = Settings()
    uris = {"tracking_uri": settings.tracking_uri(), "storage_uri": settings.storage_uri}
    return run_stage(registry.registration(model, tune=tuned, **uris))
