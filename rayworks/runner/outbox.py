"""Log lines and events of task runs on their way to the Prefect API.

A short task run sends nothing by itself: its messages return with its result, and the driver sends those of many task
runs in one request. The messages of a long task run are sent while it runs.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayworks.runner import _private
from rayworks.runner.pace import Pace

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SEND_SECONDS = 0.5
"""How long a message of a task that still runs waits to be sent."""
CLOSE_SECONDS = 30.0
"""How long the API may take, at the end of a run, to accept the remaining messages."""
BATCH = 200
"""Log lines or events in one request."""
CAPACITY = 10_000
"""Events, of one or two kilobytes each, with which an outbox is full."""

logger = logging.getLogger("rayworks.runner")


@dataclass
class Messages:
    """Log lines and events for the Prefect API."""

    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    events: list[str] = field(default_factory=list[str])
    """Each as JSON."""

    def __bool__(self) -> bool:
        return bool(self.lines or self.events)


class Outbox:
    """Collects messages. Sends none until :meth:`start`."""

    def __init__(self) -> None:
        self.is_collecting = False
        """Whether it collects what Prefect logs and emits in this process."""
        self.last_message = 0.0
        """When the last message was added, by ``time.monotonic``."""
        self._messages = Messages()
        self._in_request = Messages()
        self._pace = Pace()
        self._is_failing = False
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._client: SyncPrefectClient | None = None
        self._own_client = contextlib.ExitStack()
        self._thread: threading.Thread | None = None

    def collect_from_process(self) -> None:
        """Collect from now on what Prefect logs and emits in this process."""
        if not self.is_collecting:
            self.is_collecting = True
            _private.collect_logs_and_events(lambda line: self.add(Messages(lines=[line])), events=self)

    def put(self, item: tuple[str, Any]) -> None:
        """Add one event. With this method, the outbox is the queue to which Prefect forwards events."""
        self.add(Messages(events=[item[1].model_dump_json()]))

    def add(self, messages: Messages) -> None:
        self.last_message = time.monotonic()
        with self._lock:
            self._messages.lines += messages.lines
            self._messages.events += messages.events

    def is_full(self) -> bool:
        """Return whether more messages should wait until the API has accepted some.

        An API that is away holds up nobody.
        """
        return len(self._messages.events) + len(self._in_request.events) > CAPACITY and not self._is_failing

    def take(self) -> Messages:
        """Remove the messages that are not sent yet, and return them. Waits for a request in progress: it may fail."""
        with self._sending:
            return self._take()

    def _take(self) -> Messages:
        with self._lock:
            messages, self._messages = self._messages, Messages()
        return messages

    def start(self, client: "SyncPrefectClient | None" = None) -> None:
        """Send twice a second from now on. Safe to call again, with another client.

        Args:
            client: The client for requests. By default the outbox opens one.
        """
        self._client = client or self._client
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_regularly, name="rayworks-outbox", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send the remaining messages. Drop, and log, those that the API does not accept within ``CLOSE_SECONDS``."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + CLOSE_SECONDS
        while (error := self.send()) and time.monotonic() < deadline:
            time.sleep(SEND_SECONDS)
        if error:
            dropped = self.take()
            logger.error(
                "Prefect does not show %d log lines and %d events of the task runs: its API did not accept them: %s",
                len(dropped.lines),
                len(dropped.events),
                error,
                extra={"send_to_api": False},
            )
        self._own_client.close()

    def _send_regularly(self) -> None:
        while not self._closing.wait(SEND_SECONDS):
            self.send()

    def send(self) -> Exception | None:
        """Send all messages now. If that fails, keep those that were not sent, and return the error."""
        with self._sending:
            self._in_request = messages = self._take()
            try:
                if messages:
                    self._send(self._opened_client(), messages)
            except Exception as error:  # the API, or the way to it: the next attempt may succeed
                self._is_failing = True
                self.add(messages)
                return error
            finally:
                self._in_request = Messages()
            return None

    def _send(self, client: "SyncPrefectClient", messages: Messages) -> None:
        """Send ``messages``, and remove from them what the API has accepted or will never accept."""

        def send_events(batch: list[str]) -> None:
            # The response confirms the events. The websocket of events needs one more round trip for that.
            content, headers = f"[{','.join(batch)}]", {"Content-Type": "application/json"}
            client.request("POST", "/events", content=content, headers=headers)
            self._pace.add(batch)

        def send_lines(batch: list[dict[str, Any]]) -> None:
            client.create_logs([_private.for_api(line) for line in batch])

        while batch := messages.events[:BATCH]:
            self._pace.wait(client)
            _send_batch(batch, send_events)
            self._is_failing = False
            del messages.events[:BATCH]
        while batch := messages.lines[:BATCH]:
            _send_batch(batch, send_lines)
            del messages.lines[:BATCH]

    def _opened_client(self) -> "SyncPrefectClient":
        from prefect.client.orchestration import get_client

        if self._client is None:
            self._client = self._own_client.enter_context(get_client(sync_client=True))
        return self._client


def _send_batch(batch: list[Any], send: Callable[[list[Any]], None]) -> None:
    """Send messages in one request. Log that the API refuses them, for it would do so again."""
    import httpx

    try:
        send(batch)
    except httpx.HTTPStatusError as error:
        if not error.response.is_client_error:
            raise
        logger.error("The Prefect API refused %d messages: %s", len(batch), error, extra={"send_to_api": False})
