"""Record in the ledger of a watch that a batch has been learned."""

from datetime import UTC, datetime

from prefect import task

from rayworks.monitoring import arrivals
from rayworks.monitoring.arrivals import BatchResult
from rayworks.prefect_api import looks
from rayworks.records import Report
from rayworks.settings import Settings


@task(name="close-batch", retries=3, retry_delay_seconds=10)
def close_batch(watch: str, batch: int, report: Report) -> None:
    """Add the result of a batch, whatever the gate decided: it is not learned again."""
    reason = f"{'promoted' if report.promoted else 'not promoted'}: {report.uri}"
    uri = arrivals.location(Settings().storage_uri, watch)
    arrivals.add(uri, BatchResult(batch=batch, state="done", reason=reason, ended=datetime.now(UTC)))
    looks.ask(watch)  # what arrived meanwhile is the next batch
