"""Serve a registered model over HTTP."""

from typing import Annotated

from prefect import flow

from rayworks import RayTaskRunner
from rayworks.command_line import run
from rayworks.form import parameter
from rayworks.params import ModelUri, ServeOptions
from tasks.serve import serve as serve_task


@flow(name="serve", task_runner=RayTaskRunner())
def serve(
    model_uri: ModelUri = "models:/flights@champion",
    options: Annotated[ServeOptions, parameter("Options")] = ServeOptions(),
) -> None:
    """Serve a model over HTTP until the run is cancelled (Ctrl-C). When an alias moves, the new version takes over."""
    serve_task.submit(model_uri, options).result()


if __name__ == "__main__":
    run(serve)
