"""Open a registered model by its URI."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import registry
from rayworks.records import ModelVersion
from rayworks.settings import Settings


@task(name="open-model")
@resources(num_cpus=0, shared_storage=True)
def open_model(model_uri: str) -> ModelVersion:
    """Look up the version at ``models:/name/version`` or ``models:/name@alias``."""
    return registry.version_of(model_uri, tracking_uri=Settings().tracking_uri())
