"""A model to a version in the registry."""

from typing import Any

from prefect import task

from rayworks import resources
from rayworks.evaluation import registry
from rayworks.prefect_api.task_progress import reused
from rayworks.records import ModelRef, ModelVersion, TuneResult
from rayworks.settings import Settings


@task(name="register")
@resources(num_cpus=0)
def register(model: ModelRef, tuned: TuneResult | None = None) -> ModelVersion | Any:
    """Register a model with where it came from, as the candidate."""
    settings = Settings()
    version = registry.register(
        model, tracking_uri=settings.tracking_uri(), storage_uri=settings.storage_uri, tune=tuned
    )
    return version if version.created else reused(version, version.uri)
