"""Record in the ledger of a watch that a batch has been learned."""

from datetime import UTC, datetime

from prefect import task

from rayworks.monitoring import arrivals
from rayworks.monitoring.arrivals import BatchResult
from rayworks.records import PromotionDecision, Report
from rayworks.settings import Settings


@task(name="close-batch", retries=3, retry_delay_seconds=10)
def close_batch(watch: str, batch: int, decision: PromotionDecision, report: Report) -> None:
    """Add the result of a batch, whatever the gate decided: it is not learned again."""
    reason = f"{decision.reason} Report: {report.uri}"
    uri = arrivals.location(Settings().storage_uri, watch)
    arrivals.add(uri, BatchResult(batch=batch, state="done", reason=reason, ended=datetime.now(UTC)))
