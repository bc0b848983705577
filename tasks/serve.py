"""Serve a registered model over HTTP."""

from prefect import task

from rayworks import resources
from rayworks.params import ServeOptions
from rayworks.prefect_api.task_progress import TaskProgress
from rayworks.serving import application, follow
from rayworks.settings import Settings


@task(name="serve")
@resources(num_cpus=0, resources=application.HEAD_NODE, shared_storage=True)
def serve(model_uri: str, options: ServeOptions) -> None:
    """Serve until the run is cancelled. When the alias moves, serve its new version without dropping a request."""
    follow.serve_and_follow(model_uri, options, tracking_uri=Settings().tracking_uri(), progress=TaskProgress())
