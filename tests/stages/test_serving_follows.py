"""A service that follows an alias, with a client that never stops asking."""

import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayworks.evaluation import registry
from rayworks.params import ServeOptions
from rayworks.serving import application
from tests.waiting import eventually


class EndedError(Exception):
    """What ends the service, as a cancellation does."""


class Client:
    """Asks without a pause, and keeps every answer: the version, the seconds it took, or what went wrong."""

    def __init__(self, url: str) -> None:
        self.url, self.versions, self.errors, self.slowest = url, list[int](), list[str](), 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        body = json.dumps({"rows": [{"ride length": 4.5, "city": "Rome"}]}).encode()
        while not self._ended.is_set():
            began = time.monotonic()
            request = urllib.request.Request(f"{self.url}/predict", body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    self.versions.append(json.load(answer)["model"]["version"])
            except OSError as error:
                self.errors.append(str(error))
            self.slowest = max(self.slowest, time.monotonic() - began)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def test_a_promotion_and_a_rollback_are_followed_without_dropping_a_request(
    rides, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    monkeypatch.setattr(application, "ALIAS_SECONDS", 0.5)
    other = rides.model.model_copy(update={"uri": f"{rides.model.uri}-other"})
    if not Path(other.uri).exists():
        Path(other.uri).symlink_to(rides.model.uri)
    for model in (rides.model, other):
        registry.register(model, tracking_uri=tracking_uri, storage_uri=str(tmp_path))
    registered = MlflowClient(tracking_uri, tracking_uri)
    registered.set_registered_model_alias("rides", registry.CHAMPION, "1")
    said: list[str] = []
    end = threading.Event()

    def progress(fraction: float, message: str) -> None:
        said.append(message)
        if end.is_set():
            raise EndedError

    options = ServeOptions(port=0, cpus_per_replica=0)
    uri = f"models:/rides@{registry.CHAMPION}"
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(application.hold, uri, options, tracking_uri=tracking_uri, progress=progress)
        try:
            eventually(lambda: said or held.done(), 60, "the service did not start")
            client = Client(said[0].split(" answers at ")[1].split(",")[0])
            try:
                for version in (2, 1):  # a promotion, then a rollback
                    registered.set_registered_model_alias("rides", registry.CHAMPION, str(version))
                    eventually(lambda v=version: client.versions[-1:] == [v], 30, f"version {version} never answered")
            finally:
                client.end()
        finally:
            end.set()
        with pytest.raises(EndedError):
            held.result(timeout=60)
    assert client.errors == []
    changes = [later for earlier, later in zip(client.versions, client.versions[1:], strict=False) if earlier != later]
    assert changes == [2, 1], "an answer of the other version after the change"
    assert client.slowest < 10
