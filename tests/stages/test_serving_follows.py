"""A service that follows an alias, with a client that sends one request after the other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from rayworks.evaluation import registry
from rayworks.params import ServeOptions
from rayworks.serving import follow
from tests.waiting import eventually


class CancelledError(Exception):
    """Ends the service, as the cancellation of its flow run does."""


class Client:
    """Sends requests without a pause. Records the version of each response, the errors, and the slowest response."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.versions: list[int] = []
        self.errors: list[str] = []
        self.slowest_seconds = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        body = {"rows": [{"ride length": 4.5, "city": "Rome"}]}
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                response = httpx.post(f"{self.url}/predict", json=body, timeout=30)
                self.versions.append(response.raise_for_status().json()["model"]["version"])
            except httpx.HTTPError as error:
                self.errors.append(str(error))
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def test_a_promotion_and_a_rollback_take_effect_without_dropping_a_request(
    rides, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    monkeypatch.setattr(follow, "ALIAS_SECONDS", 0.5)
    other = rides.model.model_copy(update={"uri": f"{rides.model.uri}-other"})
    if not Path(other.uri).exists():
        Path(other.uri).symlink_to(rides.model.uri)
    for model in (rides.model, other):
        registry.registration(model, tracking_uri=tracking_uri, storage_uri=str(tmp_path)).run()
    models = MlflowClient(tracking_uri, tracking_uri)
    models.set_registered_model_alias("rides", registry.CHAMPION, "1")
    messages: list[str] = []
    cancelled = threading.Event()

    def progress(fraction: float, message: str) -> None:
        messages.append(message)
        if cancelled.is_set():
            raise CancelledError

    options = ServeOptions(port=0, cpus_per_replica=0)
    uri = f"models:/rides@{registry.CHAMPION}"
    with ThreadPoolExecutor(1) as pool:
        service = pool.submit(follow.serve_and_follow, uri, options, tracking_uri=tracking_uri, progress=progress)
        try:
            eventually(lambda: messages or service.done(), 60, "the service did not start")
            client = Client(messages[0].split(" is served at ")[1].split(",")[0])
            try:
                for version in (2, 1):  # a promotion, then a rollback
                    models.set_registered_model_alias("rides", registry.CHAMPION, str(version))
                    eventually(lambda v=version: client.versions[-1:] == [v], 30, f"version {version} never answered")
            finally:
                client.stop()
        finally:
            cancelled.set()
        with pytest.raises(CancelledError):
            service.result(timeout=60)
    assert client.errors == []
    changes = [later for earlier, later in pairwise(client.versions) if earlier != later]
    assert changes == [2, 1], "a response of the previous version after the change"
    assert client.slowest_seconds < 10
