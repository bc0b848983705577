"""How the serving check sends requests, without Ray."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from rayworks.free_port import free_port
from rayworks.params import ServeCheckOptions
from rayworks.progress import silent
from rayworks.records import DatasetRef, ModelVersion, ServeCheck
from rayworks.reuse import Stage
from rayworks.serving import check
from tests.http_serving import serving


class Handler(BaseHTTPRequestHandler):
    """Returns the body of a POST, and text for a GET."""

    def do_POST(self) -> None:
        self._respond(200, self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._respond(503, b"not ready")

    def _respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Handler) as url:
        yield url


def test_a_response_that_is_not_json_is_returned_as_text(url: str):
    with check._http_client(5) as client:
        assert check._request(client, url) == (503, "not ready")


FIRST = ModelVersion(name="m", version=1, uri="models:/m/1", run_id="a", fingerprint="m-a")


def test_a_check_is_reused_for_the_same_model_by_the_same_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    dataset = DatasetRef(
        uri="/d", fingerprint="f", name="d", target="y", problem="regression", rows_in=1, rows_kept=1, rows_rejected=0
    )

    def stage(version: ModelVersion = FIRST) -> Stage[ServeCheck]:
        return check.stage(version, dataset, options=ServeCheckOptions(), tracking_uri="", storage_uri=str(tmp_path))

    monkeypatch.setattr(
        check,
        "_check",
        lambda model_uri, dataset, options, uri, *_: ServeCheck(
            uri=uri, model_uri=model_uri, passed=True, rows=1, largest_difference=0, milliseconds_per_request=1
        ),
    )
    stage().create(silent)
    assert stage().find() is not None
    elsewhere = FIRST.model_copy(update={"version": 7, "uri": "models:/m/7"})  # the same model in another registry
    found = stage(elsewhere).find()
    assert found is not None
    assert found.model_uri == "models:/m/7"
    assert stage(FIRST.model_copy(update={"fingerprint": "m-b"})).find() is None, "another model as version 1"
    monkeypatch.setattr(check.code_digest, "of_library", lambda *rooms: "other code")
    assert stage().find() is None


def test_a_body_is_sent_as_json(url: str):
    rows = {"rows": [{"a": float("inf"), "b": None}]}
    with check._http_client(5) as client:
        assert check._request(client, url, rows) == (200, rows)


def test_the_candidate_on_this_machine_is_reached_without_the_proxy_of_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with check._http_client(5) as client:
        assert check._request(client, url, {"rows": []}) == (200, {"rows": []})
