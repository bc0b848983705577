"""Nothing that a task run reports is lost on its way, whatever the API says."""

import threading
from typing import Any

import httpx
import pytest

from rayworks.runner import outbox
from rayworks.runner.outbox import Mail, Outbox
from tests.waiting import eventually

MAIL = Mail(lines=[{"message": "a line", "__payload_size__": 6}], events=['{"event": "one"}'])


class Api:
    """The part of Prefect's client that is used; a stub, since a real API cannot be made to refuse at will."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.events, self.lines = list(failures), [], []
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def request(self, method: str, path: str, content: str, **_: Any) -> None:
        self.asked.set()
        self.may_answer.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.events.append((method, path, content))

    def create_logs(self, lines: list[dict[str, Any]]) -> None:
        self.lines += lines


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "CLOSE_SECONDS", 0.2)


def opened(api: Api) -> Outbox:
    box = Outbox()
    box.start(api)  # type: ignore[arg-type]
    box.add(MAIL)
    return box


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://api/events")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize("failure", [httpx.ConnectError("away"), refused(503)], ids=["away", "overloaded"])
def test_what_the_api_does_not_take_is_sent_again(failure: Exception):
    api = Api(failure)
    box = opened(api)
    eventually(lambda: api.lines)
    box.close()
    assert api.events == [("POST", "/events", '[{"event": "one"}]')]
    assert api.lines == [{"message": "a line"}]


def test_what_the_api_refuses_does_not_hold_up_the_rest(caplog: pytest.LogCaptureFixture):
    api = Api(refused(422))
    box = opened(api)
    eventually(lambda: api.lines)
    box.close()
    assert api.events == []
    assert "The Prefect API refused 1 entries" in caplog.text


def test_what_is_being_sent_goes_home_when_it_cannot_be_sent():
    api = Api(*[httpx.ConnectError("away")] * 1000)
    api.may_answer.clear()
    box = opened(api)
    api.asked.wait(10)
    threading.Timer(0.2, api.may_answer.set).start()  # the task ends while the API has not answered yet
    assert box.take() == MAIL
    box.close()


def test_what_is_left_at_the_end_is_given_up_with_a_message(caplog: pytest.LogCaptureFixture):
    opened(Api(*[httpx.ConnectError("away")] * 1000)).close()
    assert "Prefect does not show 1 log lines and 1 events" in caplog.text
    assert "away" in caplog.text
