"""The prediction application on a real Ray Serve."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from rayworks.data import manifest
from rayworks.errors import ServingError
from rayworks.evaluation import registry
from rayworks.free_port import free_port
from rayworks.models import stored
from rayworks.params import ServeCheckOptions, ServeOptions
from rayworks.records import ModelVersion
from rayworks.serving import _private, application, check

ROW = {"ride length": 4.5, "city": "Rome", "passengers": 2, "night": True, "start": "2024-01-01T10:00:00+02:00"}


def get(url: str) -> tuple[int, dict[str, Any]]:
    response = httpx.get(url, timeout=30)
    return response.status_code, response.json()


def predict(url: str, rows: list[Any]) -> tuple[int, dict[str, Any]]:
    response = httpx.post(f"{url}/predict", json={"rows": rows}, timeout=30)
    return response.status_code, response.json()


@pytest.fixture(scope="module")
def registered(rides, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("registry")
    tracking_uri = f"sqlite:///{folder}/mlflow.db"
    return registry.registration(rides.model, tracking_uri=tracking_uri, storage_uri=str(folder)).run(), tracking_uri


@pytest.fixture(scope="module")
def url(registered):
    version, tracking_uri = registered
    yield application.run(version.uri, ServeOptions(port=0, cpus_per_replica=0), tracking_uri=tracking_uri)
    application.stop()


def test_the_application_reports_its_health_and_its_model(url: str):
    assert get(f"{url}/healthz") == (200, {"status": "ok"})
    _, card = get(f"{url}/model")
    assert (card["name"], card["version"], card["target"]) == ("rides", 1, "fare")
    assert {"name": "ride length", "type": "float"} in card["inputs"]


def test_served_predictions_equal_those_of_the_model(url: str, rides):
    rows = stored.example_rows(manifest.load(rides.dataset))
    expected = stored.load(rides.model.uri).predict(rows)["prediction"].tolist()
    status, response = predict(url, json.loads(rows.to_json(orient="records", date_format="iso")))
    assert status == 200
    assert response["predictions"] == expected


def test_values_may_be_null_or_absent_and_a_request_may_have_no_rows(url: str):
    status, response = predict(url, [{**ROW, "city": None}, {"city": "Oslo"}, {}])
    assert (status, len(response["predictions"])) == (200, 3)
    assert predict(url, [])[1]["predictions"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ride length", "long"),
        ("night", "perhaps"),
        ("start", "soon"),
        ("city", 7),
        ("colour", "red"),
        ("passengers", 1.5),
    ],
)
def test_a_bad_value_is_refused_with_422_that_names_the_row_and_the_field(url: str, name: str, value):
    status, response = predict(url, [ROW, ROW, ROW, {**ROW, name: value}])
    assert status == 422
    assert response["detail"][0]["loc"] == ["body", "rows", 3, name]


def test_a_key_that_occurs_twice_is_refused(url: str):
    body = b'{"rows": [{"city": "Oslo", "city": "Bergen"}]}'
    response = httpx.post(f"{url}/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert "a key occurs twice: city" in response.text


def test_concurrent_requests_each_get_their_own_predictions(url: str):
    def prediction(length: int) -> float:
        return predict(url, [{**ROW, "ride length": float(length)}])[1]["predictions"][0]

    sequential = [prediction(length) for length in range(20)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(prediction, range(20))) == sequential


def test_the_serving_check_passes_beside_a_running_application_and_leaves_it_alone(
    url: str, registered, rides, tmp_path
):
    version, tracking_uri = registered
    result = check.stage(
        version,
        rides.dataset,
        options=ServeCheckOptions(rows=40),
        tracking_uri=tracking_uri,
        storage_uri=str(tmp_path),
    ).run()
    assert result.findings == ()
    assert (result.passed, result.rows, result.largest_difference) == (True, 40, 0.0)
    assert get(f"{url}/healthz")[0] == 200


def test_an_application_that_does_not_answer_is_reported_with_its_address():
    url = f"http://127.0.0.1:{free_port()}/model"
    message = rf"The application does not answer: {url} .*Connection refused"
    with check._http_client(timeout_seconds=1) as client, pytest.raises(ServingError, match=message):
        check._request(client, url)


def test_a_model_that_cannot_be_served_is_a_finding(url: str, rides, tmp_path):
    nowhere = ModelVersion(name="m", version=1, uri=str(tmp_path / "nowhere"), run_id="", fingerprint="m")
    result = check.stage(
        nowhere,
        rides.dataset,
        options=ServeCheckOptions(),
        tracking_uri="",
        storage_uri=str(tmp_path),
    ).run()
    assert not result.passed
    assert "nowhere" in result.findings[0]


def test_a_port_that_is_taken_is_refused_in_a_sentence(ray_session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_private, "http_address", lambda: None)  # as if Serve were not running
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"port is taken: 127.0.0.1:{port}"):
            application.run("models:/x/1", ServeOptions(port=port), tracking_uri="")


@pytest.fixture(scope="module")
def small(url: str, registered):
    """An application that waits for requests to predict together, at most three rows."""
    version, tracking_uri = registered
    options = ServeOptions(port=0, cpus_per_replica=0, max_batch_rows=3, batch_wait_ms=200)
    yield application.run(version.uri, options, tracking_uri=tracking_uri, application="small")
    application.stop("small")


def predict_at_once(url: str, requests: list[list[Any]]) -> list[tuple[int, dict[str, Any]]]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda rows: predict(url, rows), requests))


def test_a_batch_is_limited_in_rows_and_a_larger_request_is_predicted_alone(small: str):
    counts = (2, 2, 7, 1, 3, 0)
    responses = predict_at_once(small, [[ROW] * count for count in counts])
    assert [(status, len(response["predictions"])) for status, response in responses] == [(200, n) for n in counts]


def test_a_request_with_a_number_that_no_model_takes_is_refused_alone(small: str):
    responses = predict_at_once(small, [[ROW], [{**ROW, "ride length": 1e39}], [ROW]])
    assert [status for status, _ in responses] == [200, 422, 200]
    assert "1e+39" in responses[1][1]["detail"]
