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
    assert any("Whether its alias has moved is unknown" in message for message in messages)
    assert any("Version 2 could not be served, and is tried again" in message for message in messages)
