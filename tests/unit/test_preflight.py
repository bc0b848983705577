"""Workers that do not fit their driver are reported before the first task runs."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from rayworks.cluster import preflight
from rayworks.cluster.preflight import View, api_problem, check, disagreements, http_problem
from rayworks.errors import ClusterError
from rayworks.free_port import free_port
from tests.http_serving import serving

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "prefect": "3.8.8", "rayworks": "0.1.0"}
DRIVER = View("the driver", VERSIONS)


def test_workers_with_the_driver_s_versions_fit():
    assert disagreements(DRIVER, [View("one", VERSIONS), View("two", VERSIONS)], shared_storage=True) == []
    check(DRIVER, [View("one", VERSIONS)], shared_storage=True)


def test_a_storage_that_is_not_shared_is_a_problem_of_tasks_that_need_it_only():
    worker = View("one", VERSIONS, storage_problem="the storage /home/me is not the driver's")
    assert disagreements(DRIVER, [worker], shared_storage=False) == []
    with pytest.raises(ClusterError, match="the storage /home/me is not the driver's on one"):
        check(DRIVER, [worker], shared_storage=True)


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [
        (View("one", {**VERSIONS, "python": "3.12.1"}), "python is 3.12.1 on one and 3.11.7 on the driver"),
        (View("one", {**VERSIONS, "prefect": ""}), "prefect is not installed on one"),
        (View("one", {"python": "3.11.7", "ray": "2.60.0", "prefect": "3.8.8"}), "rayworks is not installed on one"),
        (
            View("one", VERSIONS, storage_problem="the storage s3://b cannot be written"),
            "the storage s3://b cannot be written on one",
        ),
        (View("one", {}, ("a worker could not start (no space)",)), "a worker could not start (no space) on one"),
    ],
    ids=["another version", "not installed", "unknown to the worker", "unreachable storage", "not started"],
)
def test_each_difference_is_a_sentence_that_names_the_node(worker: View, sentence: str):
    assert disagreements(DRIVER, [View("other", VERSIONS), worker], shared_storage=True) == [sentence]


def test_all_differences_are_reported_in_one_error():
    workers = [
        View("one", {**VERSIONS, "ray": "2.59.0"}),
        View("two", VERSIONS, ("the Prefect API cannot be reached",)),
    ]
    with pytest.raises(ClusterError) as error:
        check(DRIVER, workers, shared_storage=False)
    assert "ray is 2.59.0 on one and 2.60.0 on the driver; the Prefect API cannot be reached on two" in str(error.value)


@pytest.fixture
def server() -> Iterator[str]:
    """A server that is healthy at /well/health, moved at /moved/health, silent at /silent/health, wants
    a key at /cloud/health, and else fails."""
    silence = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/silent/health":
                silence.wait(10)
            self.send_response({"/well/health": 200, "/moved/health": 307, "/cloud/health": 401}.get(self.path, 503))
            self.send_header("Location", "/well/health")
            self.end_headers()

    with serving(Handler) as url:
        yield url
        silence.set()


def test_a_prefect_api_that_responds_is_no_problem(server: str):
    assert api_problem(f"{server}/well") == ""
    assert api_problem(f"{server}/moved") == ""
    assert api_problem(f"{server}/cloud") == ""


def test_a_prefect_api_that_does_not_work_is_a_problem_in_one_sentence(server: str, monkeypatch: pytest.MonkeyPatch):
    closed, failing = f"http://127.0.0.1:{free_port()}/api", f"{server}/ill"
    assert api_problem(closed) == f"the Prefect API {closed} cannot be reached ([Errno 111] Connection refused)"
    assert "503 Service Unavailable" in api_problem(failing)
    assert api_problem("http://[::1").startswith("the Prefect API http://[::1 cannot be reached (")
    assert api_problem(None) == "no PREFECT_API_URL is set that workers can reach"
    for url in (closed, failing):
        assert "\n" not in api_problem(url)
    monkeypatch.setattr(preflight, "REQUEST_SECONDS", 0.1)
    assert "timed out" in http_problem(f"{server}/silent/health")
