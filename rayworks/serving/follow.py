"""Serve a model for as long as a flow run lasts, and follow its alias."""

import time

from rayworks.errors import RayworksError, RegistryError
from rayworks.evaluation import registry
from rayworks.params import ServeOptions
from rayworks.progress import Progress, silent
from rayworks.serving import application

ALIAS_SECONDS = 5
"""How often the alias is resolved, and so how soon a promotion or a rollback takes effect."""


def serve_and_follow(model_uri: str, options: ServeOptions, *, tracking_uri: str, progress: Progress = silent) -> None:
    """Serve a model until the caller is cancelled. When its alias moves to another version, serve that version.

    Raises:
        RegistryError: The registry does not know the model, or cannot be reached when serving starts.
        ServingError: The application does not start.
    """
    served = registry.version_of(model_uri, tracking_uri=tracking_uri)
    url = application.run(served.uri, options, tracking_uri=tracking_uri)
    is_deployed = True  # otherwise Serve was last given a version that it could not start
    problem = ""
    try:
        while True:
            status = f"{served.name} version {served.version} is served at {url}"
            progress(1.0, f"{status}, interactive documentation at {url}/docs{problem}")
            time.sleep(ALIAS_SECONDS)
            try:
                current = registry.version_of(model_uri, tracking_uri=tracking_uri)
            except RegistryError as error:  # an outage of the registry does not stop the service
                problem = f". Whether its alias has moved is unknown: {error}"
                continue
            if current.version == served.version and is_deployed:
                problem = ""
                continue
            is_deployed = False
            room = f"{options.cpus_per_replica:g} CPUs for another replica"
            progress(1.0, f"{status} until version {current.version} has started beside it, which needs {room}")
            try:
                application.run(current.uri, options, tracking_uri=tracking_uri)
            except RayworksError as error:  # until it can be served, or the alias moves on
                problem = f". Version {current.version} could not be served, and is tried again: {error}"
                continue
            served, is_deployed, problem = current, True, ""
    finally:
        application.stop()
