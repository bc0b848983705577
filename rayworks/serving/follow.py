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
    try:
        while True:
            status = f"{served.name} version {served.version} is served at {url}"
            progress(1.0, f"{status}, interactive documentation at {url}/docs")
            time.sleep(ALIAS_SECONDS)
            try:
                current = registry.version_of(model_uri, tracking_uri=tracking_uri)
            except RegistryError as error:  # an outage of the registry does not stop the service
                progress(1.0, f"{status}. Whether its alias has moved is unknown: {error}")
                continue
            if current.version == served.version:
                continue
            try:
                application.run(current.uri, options, tracking_uri=tracking_uri)
            except RayworksError as error:  # until it can be served, or the alias moves on
                progress(1.0, f"{status}. Version {current.version} could not be served, and is tried again: {error}")
                continue
            served = current
    finally:
        application.stop()
