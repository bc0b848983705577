"""Promote a candidate to champion if it passes every check."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import promotion
from rayworks.params import PromoteOptions
from rayworks.prefect_api import notifications
from rayworks.records import Evaluation, ModelVersion, PromotionDecision, ServeCheck
from rayworks.settings import Settings


@task(name="promote")
@resources(num_cpus=0, shared_storage=True)
def promote(
    candidate: ModelVersion, evaluation: Evaluation, serve_check: ServeCheck | None, options: PromoteOptions
) -> PromotionDecision:
    """Move the champion alias if every check passes, and store the decision in either case."""
    settings = Settings()
    decision = promotion.promote(
        candidate,
        evaluation,
        serve_check,
        options,
        tracking_uri=settings.tracking_uri(),
        storage_uri=settings.storage_uri,
    )
    if decision.changed or not decision.promoted:  # not again where it already was the champion
        outcome = "was promoted" if decision.promoted else "was not promoted"
        notifications.tell(f"{candidate.name} version {candidate.version} {outcome}", decision.reason)
    return decision
