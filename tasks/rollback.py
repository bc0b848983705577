"""Go back to the previous champion."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import registry
from rayworks.records import ModelVersion
from rayworks.settings import Settings


@task(name="rollback")
@resources(num_cpus=0, shared_storage=True)
def rollback(name: str) -> ModelVersion:
    """Move the champion alias back to the previous champion."""
    settings = Settings()
    return registry.rollback(name, tracking_uri=settings.tracking_uri(), storage_uri=settings.storage_uri)
