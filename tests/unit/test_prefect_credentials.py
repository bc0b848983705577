"""A Prefect server with a password, and Prefect Cloud with its key."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from rayworks.errors import ClusterError
from rayworks.prefect_api import registration
from rayworks.prefect_api.address import worker_environment
from tests.http_serving import serving


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a Prefect API that refuses all credentials."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

    with serving(Handler) as url:
        yield f"{url}/api"


def test_a_server_that_refuses_the_password_is_a_sentence(refusing: str, tmp_path: Path):
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: refusing, PREFECT_API_AUTH_STRING: "me:wrong"}),
        pytest.raises(ClusterError) as refused,
    ):
        registration.register(tmp_path, "local", "process", {}, overwrite=False)
    assert f"refuses the credentials of this process: {refusing} (401 Unauthorized). Set PREFECT_API_AUTH_STRING" in (
        str(refused.value)
    )
    assert "me:wrong" not in str(refused.value)


def test_ray_workers_get_the_password_and_the_key():
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, temporary_settings

    with temporary_settings({PREFECT_API_AUTH_STRING: "me:right", PREFECT_API_KEY: "pnu_1"}):
        environment = worker_environment()
    assert (environment["PREFECT_API_AUTH_STRING"], environment["PREFECT_API_KEY"]) == ("me:right", "pnu_1")
