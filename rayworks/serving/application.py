"""Run and stop a model as an application of Ray Serve on the connected Ray cluster."""

import socket

from rayworks.errors import RayworksError, ServingError, named
from rayworks.free_port import free_port
from rayworks.params import ServeOptions
from rayworks.ray_error import cause
from rayworks.serving import _private, prediction_app

APPLICATION = "rayworks"
HEAD_NODE: dict[str, float] = {_private.HEAD_NODE_RESOURCE: 0.001}
"""Resources of a Ray task that has to run on the head node, where Serve listens."""
STOP_SECONDS = 30


def run(model_uri: str, options: ServeOptions, *, tracking_uri: str, application: str = APPLICATION) -> str:
    """Serve a model. A running application of this name switches to the new model without dropping a request.

    Returns:
        The URL of the application.

    Raises:
        ServingError: The port is taken, or the application does not start.
    """
    from ray import serve

    host, port = _http_address(options.host, options.port)
    deployment = prediction_app.build(model_uri, options, tracking_uri=tracking_uri)
    prefix = "/" if application == APPLICATION else f"/{application}"
    try:
        serve.run(deployment, name=application, route_prefix=prefix)
    except Exception as error:
        reason = cause(error)
        if isinstance(reason, RayworksError):
            raise reason from error
        raise ServingError(
            "the model's application did not start",
            where=model_uri,
            detail=named(reason),
            remedy="See the replica's log in the Ray dashboard",
        ) from error
    return f"http://{host}:{port}{prefix.rstrip('/')}"


def _http_address(host: str, port: int) -> tuple[str, int]:
    """Return where Serve listens on this Ray cluster. Start it at ``host`` and ``port`` (0: a free one) if necessary.

    Raises:
        ServingError: The port is taken by another program.
    """
    from ray import serve

    if address := _private.http_address():
        return address
    port = port or free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                "the port is taken",
                where=f"{host}:{port}",
                detail=str(error),
                remedy="Choose another port, or 0 for a free one",
            ) from error
    serve.start(http_options={"host": host, "port": port})
    return host, port


def stop(application: str = APPLICATION) -> None:
    """Delete an application, and shut down Serve with the last one.

    Raises:
        ServingError: Serve is still running after ``STOP_SECONDS``.
    """
    from ray import serve

    serve.delete(application)
    if serve.status().applications:
        return
    if not _private.shut_down(STOP_SECONDS):
        remedy = "See the log of its controller in the Ray dashboard"
        raise ServingError(f"Ray Serve did not end within {STOP_SECONDS} seconds", remedy=remedy)
