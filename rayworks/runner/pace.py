"""Keeps the events of task runs from arriving faster than the Prefect server stores them.

The server accepts events into queues in its memory and stores them later. A queue that is full drops what arrives
(``prefect.server.utilities.messaging.memory.Subscription``, 10,000 messages). Its task run is then never shown, or
shown as running for ever.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

WINDOW = 2000
"""How many events are sent before the server must have stored those of the window before.

The server's queues have room for two large flow runs at once."""
STORE_SECONDS = 60.0
"""How long the server may take to store a window. After that its events count as lost, and the next ones are sent."""
POLL_SECONDS = 0.2


class Pace:
    """How far the server is behind the events of one sender. It stores them in the order in which they arrive."""

    def __init__(self) -> None:
        self._sent = 0
        self._last_state: str | None = None
        """Id of the event of the last task run state in this window."""
        self._awaited_state: str | None = None
        """Id of the event of the last task run state in the window before, while it is not known to be stored."""
        self._stores_events = True

    def add(self, events: Sequence[str]) -> None:
        """Count events that the API has accepted, each as JSON."""
        self._sent += len(events)
        of_task_runs = (json.loads(event) for event in reversed(events) if '"prefect.task-run.' in event)
        is_state = (event["id"] for event in of_task_runs if event["event"].startswith("prefect.task-run."))
        self._last_state = next(is_state, self._last_state)

    def wait(self, client: "SyncPrefectClient") -> None:
        """Return when more events may be sent.

        Raises:
            httpx.HTTPError: The API cannot be reached.
        """
        if self._sent < WINDOW:
            return
        if self._awaited_state and _stores_later(client):
            # Two services of the server store them, each from a queue of its own.
            _wait_until(_has_state, client, self._awaited_state)
            self._stores_events = self._stores_events and _wait_until(_has_event, client, self._awaited_state)
        self._awaited_state, self._sent = self._last_state, 0


def _stores_later(client: "SyncPrefectClient") -> bool:
    from prefect.client.base import ServerType

    return client.server_type != ServerType.CLOUD  # whose queues are its own concern


def _wait_until(
    is_stored: "Callable[[SyncPrefectClient, str], bool]", client: "SyncPrefectClient", event_id: str
) -> bool:
    """Wait, and return whether the event was stored in time."""
    deadline = time.monotonic() + STORE_SECONDS
    while not is_stored(client, event_id):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _has_state(client: "SyncPrefectClient", event_id: str) -> bool:
    """Return whether the server has stored the state with the id of its event (``task_run_from_event``)."""
    import httpx

    try:
        client.request("GET", "/task_run_states/{id}", path_params={"id": event_id})
    except httpx.HTTPStatusError as error:
        return _tells_nothing(error)
    return True


def _has_event(client: "SyncPrefectClient", event_id: str) -> bool:
    """Return whether the server has stored the event itself. Its service may be turned off."""
    import httpx

    body = {"filter": {"id": {"id": [event_id]}}, "limit": 1}
    try:
        return bool(client.request("POST", "/events/filter", json=body).json()["events"])
    except httpx.HTTPStatusError as error:
        return _tells_nothing(error)


def _tells_nothing(error: "httpx.HTTPStatusError") -> bool:
    """Return whether the API refuses the question, so that it cannot set the pace.

    Raises:
        httpx.HTTPStatusError: It could not answer now.
    """
    if not error.response.is_client_error:
        raise error
    return error.response.status_code != 404
