"""No message of a task run is lost on its way to the API, however the API responds."""

import json
import threading
from typing import Any

import httpx
import pytest
from prefect.client.base import ServerType

from rayworks.runner import outbox as outbox_module
from rayworks.runner.outbox import BATCH, CAPACITY, Messages, Outbox
from rayworks.runner.pace import WINDOW
from tests.waiting import eventually

MESSAGES = Messages(lines=[{"message": "a line", "__payload_size__": 6}], events=['{"event": "one"}'])


class Api:
    """The part of Prefect's client that an outbox uses. A stub, because a real API does not refuse on demand."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.events, self.lines = list(failures), [], []
        self.stored: set[str] | None = None  # the ids of the states that it has stored; None: all
        self.unknown_status = 404
        self.server_type = ServerType.SERVER
        self.was_called, self.may_respond = threading.Event(), threading.Event()
        self.may_respond.set()

    def request(self, method: str, path: str, content: str = "", **options: Any) -> httpx.Response | None:
        if path == "/task_run_states/{id}":
            if self.stored is not None and options["path_params"]["id"] not in self.stored:
                raise refused(self.unknown_status)
            return None
        if path == "/events/filter":
            (event,) = options["json"]["filter"]["id"]["id"]
            is_stored = self.stored is None or event in self.stored
            if not is_stored and self.unknown_status != 404:
                raise refused(self.unknown_status)
            return httpx.Response(200, json={"events": [event] if is_stored else []})
        self.was_called.set()
        self.may_respond.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.events.append((method, path, content))
        return None

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


def states(number: int) -> Messages:
    """The events of that many states of task runs, with their numbers as ids."""
    return Messages(events=[f'{{"event": "prefect.task-run.Completed", "id": "{state}"}}' for state in range(number)])


def test_events_are_sent_no_faster_than_the_server_stores_them():
    api = Api()
    api.stored = set()
    outbox = Outbox()
    outbox.add(states(4 * WINDOW))
    outbox.start(api)  # type: ignore[arg-type]
    eventually(lambda: len(api.events) == 2 * WINDOW / BATCH)
    api.was_called.clear()
    assert not api.was_called.wait(0.5), "events are sent though the server has not stored those before"
    api.stored.add(str(WINDOW - 1))
    eventually(lambda: len(api.events) == 3 * WINDOW / BATCH)
    api.stored |= {str(2 * WINDOW - 1), str(3 * WINDOW - 1)}
    outbox.close()
    sent = [state for _, _, content in api.events for state in json.loads(content)]
    assert [state["id"] for state in sent] == [str(state) for state in range(4 * WINDOW)]


@pytest.mark.parametrize(("server_type", "status"), [(ServerType.CLOUD, 404), (ServerType.SERVER, 405)])
def test_an_api_that_does_not_tell_what_it_stored_sets_no_pace(server_type: ServerType, status: int):
    api = Api()
    api.stored, api.server_type, api.unknown_status = set(), server_type, status
    outbox = Outbox()
    outbox.add(states(4 * WINDOW))
    outbox.start(api)  # type: ignore[arg-type]
    outbox.close()
    assert len(api.events) == 4 * WINDOW / BATCH


def test_an_outbox_is_full_while_the_server_is_behind_but_not_while_it_is_away():
    api = Api(httpx.ConnectError("away"))
    api.stored = set()
    outbox = Outbox()
    outbox.add(states(CAPACITY + 2 * WINDOW + 1))
    assert outbox.is_full()
    outbox._client = api  # type: ignore[assignment]
    assert isinstance(outbox.send(), httpx.ConnectError)
    assert not outbox.is_full()
    outbox.start()
    eventually(lambda: len(api.events) == 2 * WINDOW / BATCH)
    assert outbox.is_full()
    api.stored = None
    outbox.close()
    assert not outbox.is_full()
