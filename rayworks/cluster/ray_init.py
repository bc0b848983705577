"""Connecting this process to Ray by ``ray.init``, without its side effects on this process."""

import contextlib
import os
from collections.abc import Generator, Mapping
from typing import Any, cast

from rayworks.cluster import _private


def connect(arguments: Mapping[str, Any], *, environment: Mapping[str, str]) -> str | None:
    """Call ``ray.init``. The environment variables and the SIGTERM handler of this process stay as they are.

    Args:
        arguments: Of ``ray.init``.
        environment: Variables that are set only while it runs.

    Returns:
        The URL of the Ray dashboard, if there is one.
    """
    import ray

    with _temporary_environment(environment), _private.sigterm_handler_kept():
        return url_of(cast(Any, ray.init)(**arguments).dashboard_url)


def url_of(dashboard: str | None) -> str | None:
    """Return the URL of a dashboard's address, which Ray writes with or without a protocol; None if there is none."""
    return f"http://{dashboard}" if dashboard and "://" not in dashboard else dashboard or None


@contextlib.contextmanager
def _temporary_environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set variables in ``os.environ`` within the block, and restore the previous values after it."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
