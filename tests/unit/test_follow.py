"""A service that follows an alias, without Ray and a registry: what it does when the new version cannot be served."""

import itertools
from typing import Any

import pytest

from rayworks.errors import RegistryError, ServingError
from rayworks.params import ServeOptions
from rayworks.records import ModelVersion
from rayworks.serving import application, follow


class CancelledError(Exception):
    """Ends the service, as the cancellation of its flow run does."""


def version(number: int) -> ModelVersion:
    return ModelVersion(name="m", version=number, uri=f"models:/m/{number}", run_id="r", fingerprint="f")


def test_a_rollback_from_a_version_that_cannot_be_served_deploys_the_version_before(monkeypatch: pytest.MonkeyPatch):
    aliases = iter([version(1), version(2), version(1), version(1)])
    starts: list[str] = []

    def version_of(*_: Any, **__: Any) -> ModelVersion:
        if (current := next(aliases, None)) is None:
            raise CancelledError
        return current

    def run(uri: str, *_: Any, **__: Any) -> str:
        starts.append(uri)
        if uri == "models:/m/2":
            raise ServingError("the model's application did not start")
        return "http://127.0.0.1:1"

    monkeypatch.setattr(follow, "ALIAS_SECONDS", 0)
    monkeypatch.setattr(follow.registry, "version_of", version_of)
    monkeypatch.setattr(application, "run", run)
    monkeypatch.setattr(application, "stop", lambda: None)
    with pytest.raises(CancelledError):
        follow.serve_and_follow("models:/m@champion", ServeOptions(), tracking_uri="")
    assert starts == ["models:/m/1", "models:/m/2", "models:/m/1"]


def test_a_version_that_cannot_be_served_is_tried_again_and_does_not_end_the_service(monkeypatch: pytest.MonkeyPatch):
    aliases = itertools.chain([version(1), RegistryError("away"), version(2), version(2)], itertools.repeat(version(2)))
    starts: list[str] = []
    messages: list[str] = []

    def version_of(*_: Any, **__: Any) -> ModelVersion:
        if isinstance(current := next(aliases), RegistryError):
            raise current
        return current

    def run(uri: str, *_: Any, **__: Any) -> str:
        starts.append(uri)
        if starts == ["models:/m/1", "models:/m/2"]:
            raise ServingError("the model's application did not start")
        return "http://127.0.0.1:1"

    def progress(_: float, message: str) -> None:
        messages.append(message)
        if message.startswith("m version 2"):
            raise CancelledError

    monkeypatch.setattr(follow, "ALIAS_SECONDS", 0)
    monkeypatch.setattr(follow.registry, "version_of", version_of)
    monkeypatch.setattr(application, "run", run)
    monkeypatch.setattr(application, "stop", lambda: starts.append("stopped"))
    with pytest.raises(CancelledError):
        follow.serve_and_follow("models:/m@champion", ServeOptions(), tracking_uri="", progress=progress)
    assert starts == ["models:/m/1", "models:/m/2", "models:/m/2", "stopped"]
    # What is shown until the alias is looked at again.
    begun, away, failed, served = [message for message in messages if "interactive documentation" in message]
    assert begun.startswith("m version 1 is served at http://127.0.0.1:1,")
    assert away.startswith(f"{begun}. Whether its alias has moved is unknown")
    assert failed.startswith(f"{begun}. Version 2 could not be served, and is tried again")
    assert served.startswith("m version 2 is served")
