"""The HTTP application on a real Ray Serve."""

import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayworks.data import manifest
from rayworks.errors import ServingError
from rayworks.evaluation import registry
from rayworks.free_port import free_port
from rayworks.models import tabular
from rayworks.params import ServeCheckOptions, ServeOptions
from rayworks.serving import application


def ask(url: str, body=None) -> tuple[int, dict]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=30
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def registered(rides, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("registry")
    tracking_uri = f"sqlite:///{folder}/mlflow.db"
    return registry.register(rides.model, tracking_uri=tracking_uri, storage_uri=str(folder)), tracking_uri


@pytest.fixture(scope="module")
def url(registered):
    version, tracking_uri = registered
    yield application.run(version.uri, ServeOptions(port=0, cpus_per_replica=0), tracking_uri=tracking_uri)
    application.stop()


ROW = {"ride length": 4.5, "city": "Rome", "passengers": 2, "night": True, "start": "2024-01-01T10:00:00+02:00"}


def test_it_is_well_and_tells_what_answers(url: str):
    assert ask(f"{url}/healthz") == (200, {"status": "ok"})
    _, card = ask(f"{url}/model")
    assert (card["name"], card["version"], card["target"]) == ("rides", 1, "fare")
    assert {"name": "ride length", "type": "float"} in card["inputs"]


def test_it_answers_as_the_model_does(url: str, rides):
    rows = tabular.example_rows(manifest.load(rides.dataset))
    own = tabular.load(rides.model.uri).predict(rows)["prediction"].tolist()
    status, answer = ask(f"{url}/predict", {"rows": json.loads(rows.to_json(orient="records", date_format="iso"))})
    assert status == 200
    assert answer["predictions"] == own


def test_values_may_be_null_or_absent_and_no_rows_are_no_error(url: str):
    status, answer = ask(f"{url}/predict", {"rows": [{**ROW, "city": None}, {"city": "Oslo"}, {}]})
    assert (status, len(answer["predictions"])) == (200, 3)
    assert ask(f"{url}/predict", {"rows": []})[1]["predictions"] == []


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
def test_a_bad_value_is_answered_422_with_the_row_and_the_field(url: str, name: str, value):
    status, answer = ask(f"{url}/predict", {"rows": [ROW, ROW, ROW, {**ROW, name: value}]})
    assert status == 422
    assert answer["detail"][0]["loc"] == ["body", "rows", 3, name]


def test_many_requests_at_once_get_each_their_own_answer(url: str):
    def length(i: int) -> float:
        return ask(f"{url}/predict", {"rows": [{**ROW, "ride length": float(i)}]})[1]["predictions"][0]

    one_by_one = [length(i) for i in range(20)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(length, range(20))) == one_by_one


def test_the_check_passes_beside_a_running_application_and_leaves_it_alone(url: str, registered, rides, tmp_path):
    version, tracking_uri = registered
    found = application.check(
        version.uri,
        rides.dataset,
        options=ServeCheckOptions(rows=40),
        tracking_uri=tracking_uri,
        storage_uri=str(tmp_path),
    )
    assert found.findings == ()
    assert (found.passed, found.rows, found.largest_difference) == (True, 40, 0.0)
    assert ask(f"{url}/healthz")[0] == 200


def test_an_application_that_does_not_answer_is_told_with_its_address():
    url = f"http://127.0.0.1:{free_port()}/model"
    with pytest.raises(ServingError, match=rf"The application does not answer: {url} .*Connection refused"):
        application._ask(url, None, 1)


def test_a_model_that_cannot_be_served_is_a_finding(url: str, rides, tmp_path):
    found = application.check(
        str(tmp_path / "nowhere"),
        rides.dataset,
        options=ServeCheckOptions(),
        tracking_uri="",
        storage_uri=str(tmp_path),
    )
    assert not found.passed
    assert "nowhere" in found.findings[0]


def test_a_port_that_is_taken_is_refused_in_a_sentence(ray_session, monkeypatch: pytest.MonkeyPatch):
    from ray.serve import context

    monkeypatch.setattr(context, "_get_global_client", lambda **_: None)  # as if Serve did not run yet
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"port is taken: 127.0.0.1:{port}"):
            application.run("models:/x/1", ServeOptions(port=port), tracking_uri="")


def test_a_batch_is_bounded_by_rows_and_a_request_of_more_goes_alone(url: str, registered):
    version, tracking_uri = registered
    options = ServeOptions(port=0, cpus_per_replica=0, max_batch_rows=3, batch_wait_ms=200)
    small = application.run(version.uri, options, tracking_uri=tracking_uri, application="small")
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda rows: ask(f"{small}/predict", {"rows": [ROW] * rows}), (2, 2, 7, 1, 3, 0)))
    finally:
        application.stop("small")
    assert [(status, len(answer["predictions"])) for status, answer in answers] == [
        (200, n) for n in (2, 2, 7, 1, 3, 0)
    ]
