"""Go back to the previous champion, or let models be promoted again afterwards."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import promotion
from rayworks.records import ModelVersion
from rayworks.settings import Settings


@task(name="rollback")
@resources(num_cpus=0, shared_storage=True)
def rollback(name: str, lift: bool = False) -> ModelVersion:
    """Move the champion alias back to the previous champion and hold it, or lift the hold. Return the champion."""
    settings = Settings()
    uris = {"tracking_uri": settings.tracking_uri(), "storage_uri": settings.storage_uri}
    return promotion.lift_hold(name, **uris) if lift else promotion.rollback(name, **uris)
