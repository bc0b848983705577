"""Which Prefect API this process and its Ray workers use."""

from collections.abc import Generator
from contextlib import contextmanager

from rayworks import storage
from rayworks.errors import ClusterError
from rayworks.prefect_api import _private
from rayworks.settings import Settings


def configured_api_url() -> str | None:
    """Return the Prefect API of this process: the configured one, or the server that Prefect started by itself."""
    from prefect.settings import PREFECT_API_URL

    if url := PREFECT_API_URL.value():
        return str(url)
    return _private.url_of_temporary_server()


def use(url: str) -> None:
    """Make ``url`` the Prefect API of this process and of its children."""
    _private.use_api(url)


@contextmanager
def refusal_explained() -> Generator[None]:
    """Say in a sentence that the Prefect API refuses the credentials of this process.

    Raises:
        ClusterError: It does.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise ClusterError(
            "the Prefect API refuses the credentials of this process",
            where=configured_api_url() or "",
            detail=f"{error.response.status_code} {error.response.reason_phrase}",
            remedy="Set PREFECT_API_AUTH_STRING to the password of the server, as user:password, or PREFECT_API_KEY to "
            "a key of Prefect Cloud",
        ) from error


def worker_environment() -> dict[str, str]:
    """Return the environment variables that Ray workers get: this process's settings of Prefect and of rayworks.

    ``PREFECT_API_URL`` is always among them if an API is known. ``PREFECT_HOME`` is not: the path exists only here.
    """
    from prefect.settings import get_current_settings

    environment = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    environment = {name: value for name, value in environment.items() if name != "PREFECT_HOME"}
    if url := configured_api_url():
        environment["PREFECT_API_URL"] = url
    settings = Settings()
    environment["RAYWORKS_STORAGE_URI"] = storage.absolute(settings.storage_uri)
    if settings.mlflow_tracking_uri:
        environment["RAYWORKS_MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
    if settings.mlflow_ui_url:
        environment["RAYWORKS_MLFLOW_UI_URL"] = settings.mlflow_ui_url
    if settings.notify:
        environment["RAYWORKS_NOTIFY"] = settings.notify
    return environment
