"""Log lines and events of task runs on their way to the Prefect API.

A short task run sends nothing by itself: what it leaves goes home with its result, and the driver sends the lines and
events of many task runs in one request. What a long one leaves is sent while it runs.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SEND_SECONDS = 0.5
"""How long a line or an event of a task that still runs waits to be sent."""
CLOSE_SECONDS = 30.0
"""How long the API may take, when a run ends, to accept what is left."""
BATCH = 200
"""Lines or events in one request."""

logger = logging.getLogger("rayworks.runner")


@dataclass
class Mail:
    """What the Prefect API is to be told."""

    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    events: list[str] = field(default_factory=list[str])
    """Each as JSON."""

    def __bool__(self) -> bool:
        return bool(self.lines or self.events)


class Outbox:
    """Collects what is to be sent. Sends nothing until :meth:`start`."""

    def __init__(self) -> None:
        self.is_collecting = False
        self._mail = Mail()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._client: SyncPrefectClient | None = None
        self._own_client = contextlib.ExitStack()
        self._thread: threading.Thread | None = None

    def collect_here(self) -> None:
        """Collect what Prefect logs and emits in this process from now on, as Prefect's own process pool does."""
        from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
        from prefect.logging.handlers import set_api_log_sink

        if self.is_collecting:
            return
        self.is_collecting = True
        set_api_log_sink(lambda line: self.add(Mail(lines=[line])))
        EventsWorker.set_client_override(ProcessPoolForwardingEventsClient, event_queue=self)

    def put(self, item: tuple[str, Any]) -> None:
        """Take one event; this makes the outbox the queue of Prefect's ``ProcessPoolForwardingEventsClient``."""
        self.add(Mail(events=[item[1].model_dump_json()]))

    def add(self, mail: Mail) -> None:
        with self._lock:
            self._mail.lines += mail.lines
            self._mail.events += mail.events

    def take(self) -> Mail:
        """What is not sent yet; it is the caller's now. What is being sent is waited for: it may come back."""
        with self._sending:
            return self._taken()

    def _taken(self) -> Mail:
        with self._lock:
            mail, self._mail = self._mail, Mail()
        return mail

    def start(self, client: "SyncPrefectClient | None" = None) -> None:
        """Send what comes in, twice a second, through ``client`` (default: one of its own)."""
        self._client = client or self._client
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_regularly, name="rayworks-outbox", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send what is left. What the API does not accept within ``CLOSE_SECONDS`` is reported and given up."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + CLOSE_SECONDS
        while (error := self.send()) and time.monotonic() < deadline:
            time.sleep(SEND_SECONDS)
        if error:
            left = self.take()
            logger.error(
                "Prefect does not show %d log lines and %d events of the task runs, since its API did not accept them: %s",
                len(left.lines),
                len(left.events),
                error,
                extra={"send_to_api": False},
            )
        self._own_client.close()

    def _send_regularly(self) -> None:
        while not self._closing.wait(SEND_SECONDS):
            self.send()

    def send(self) -> Exception | None:
        """Send what is there, or keep it and tell why it could not be sent."""
        with self._sending:
            mail = self._taken()
            if not mail:
                return None
            try:
                _send(self._opened_client(), mail)
            except Exception as error:  # the API or the way to it: the next attempt may succeed
                self.add(mail)  # without what was sent already
                return error
            return None

    def _opened_client(self) -> "SyncPrefectClient":
        from prefect.client.orchestration import get_client

        if self._client is None:
            self._client = self._own_client.enter_context(get_client(sync_client=True))
        return self._client


def _send(client: "SyncPrefectClient", mail: Mail) -> None:
    """Send ``mail``, and take from it what the API has accepted or will never accept."""

    def events(batch: list[str]) -> None:
        # The REST twin of the events' websocket: its answer confirms them, which costs the websocket a round trip more.
        client.request("POST", "/events", content=f"[{','.join(batch)}]", headers={"Content-Type": "application/json"})

    def lines(batch: list[dict[str, Any]]) -> None:
        client.create_logs(
            [{name: value for name, value in line.items() if name != "__payload_size__"} for line in batch]
        )

    _in_batches(mail.events, events)
    _in_batches(mail.lines, lines)


def _in_batches(waiting: list[Any], post: Callable[[list[Any]], None]) -> None:
    import httpx

    while batch := waiting[:BATCH]:
        try:
            post(batch)
        except httpx.HTTPStatusError as error:
            if not error.response.is_client_error:
                raise
            # It would refuse them again, and all that comes after would wait behind them.
            logger.error("The Prefect API refused %d entries: %s", len(batch), error, extra={"send_to_api": False})
        del waiting[:BATCH]
