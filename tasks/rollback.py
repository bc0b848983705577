"""The champion to its predecessor."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import registry
from rayworks.records import ModelVersion
from rayworks.settings import Settings


@task(name="rollback")
@resources(num_cpus=0)
def rollback(name: str) -> ModelVersion:
    """Move the champion alias back."""
    return registry.rollback(name, tracking_uri=Settings().tracking_uri())
