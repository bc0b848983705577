"""Open the champion of a model."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import registry
from rayworks.records import Champion
from rayworks.settings import Settings


@task(name="open-champion")
@resources(num_cpus=0, shared_storage=True)
def open_champion(name: str) -> Champion | None:
    """Return the champion with what it was made from, or None."""
    return registry.origin(name, tracking_uri=Settings().tracking_uri())
