"""No message of a task run is lost on its way to the API, however the API responds."""

import threading
from typing import Any

import httpx
import pytest

from rayworks.runner import outbox as outbox_module
from rayworks.runner.outbox import Messages, Outbox
from tests.waiting import eventually

MESSAGES = Messages(lines=[{"message": "a line", "__payload_size__": 6}], events=['{"event": "one"}'])


class Api:
    """The part of Prefect's client that an outbox uses. A stub, because a real API does not refuse on demand."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.events, self.lines = list(failures), [], []
        self.was_called, self.may_respond = threading.Event(), threading.Event()
        self.may_respond.set()

    def request(self, method: str, path: str, content: str, **_: Any) -> None:
        self.was_called.set()
        self.may_respond.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.events.append((method, path, content))

    def create_logs(self, lines: list[dict[str, Any]]) -> None:
        self.lines += lines


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(outbox_module, "CLOSE_SECONDS", 0.2)


def started(api: Api) -> Outbox:
    outbox = Outbox()
    outbox.start(api)  # type: ignore[arg-type]
    outbox.add(MESSAGES)
    return outbox


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://api/events")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize("failure", [httpx.ConnectError("away"), refused(503)], ids=["away", "overloaded"])
def test_messages_that_the_api_does_not_accept_are_sent_again(failure: Exception):
    api = Api(failure)
    outbox = started(api)
    eventually(lambda: api.lines)
    outbox.close()
    assert api.events == [("POST", "/events", '[{"event": "one"}]')]
    assert api.lines == [{"message": "a line"}]


def test_messages_that_the_api_refuses_do_not_hold_up_the_others(caplog: pytest.LogCaptureFixture):
    api = Api(refused(422))
    outbox = started(api)
    eventually(lambda: api.lines)
    outbox.close()
    assert api.events == []
    assert "The Prefect API refused 1 messages" in caplog.text


def test_messages_whose_request_fails_return_with_the_result():
    api = Api(*[httpx.ConnectError("away")] * 1000)
    api.may_respond.clear()
    outbox = started(api)
    api.was_called.wait(10)
    threading.Timer(0.2, api.may_respond.set).start()  # the task ends before the API responds
    assert outbox.take() == MESSAGES
    outbox.close()


def test_messages_that_remain_at_the_end_are_dropped_and_logged(caplog: pytest.LogCaptureFixture):
    started(Api(*[httpx.ConnectError("away")] * 1000)).close()
    assert "Prefect does not show 1 log lines and 1 events" in caplog.text
    assert "away" in caplog.text
