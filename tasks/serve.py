"""A registered model to an address that answers."""

from prefect import task

from rayworks.params import ServeOptions
from rayworks.runner import resources
from rayworks.settings import Settings
from rayworks.stages import serving
from rayworks.task_progress import TaskProgress


@task(name="serve")
@resources(num_cpus=0, resources=serving.HEAD)
def serve(model_uri: str, options: ServeOptions) -> None:
    """Serve until the run is cancelled; an alias that moves is followed without dropping a request."""
    serving.hold(model_uri, options, tracking_uri=Settings().tracking_uri(), progress=TaskProgress())
