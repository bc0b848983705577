"""Record in the ledger of a watch that a batch needs nothing more."""

from datetime import UTC, datetime
from typing import Literal

from prefect import task

from rayworks.monitoring import arrivals
from rayworks.monitoring.arrivals import BatchResult
from rayworks.prefect_api import looks
from rayworks.settings import Settings


@task(name="close-batch", retries=3, retry_delay_seconds=10)
def close_batch(watch: str, batch: int, state: Literal["done", "skipped"], reason: str) -> None:
    """Add the result of a batch, whatever was decided: it starts no other run."""
    uri = arrivals.location(Settings().storage_uri, watch)
    arrivals.add(uri, BatchResult(batch=batch, state=state, reason=reason, ended=datetime.now(UTC)))
    looks.ask(watch)  # what arrived meanwhile is the next batch
