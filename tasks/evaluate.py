"""Evaluate a candidate beside the baseline and the champion."""

from prefect import task

from rayworks import resources
from rayworks.evaluation import evaluation, registry
from rayworks.params import EvaluateOptions
from rayworks.prefect_api.task_progress import run_stage
from rayworks.records import DatasetRef, Evaluation, ModelVersion
from rayworks.settings import Settings


@task(name="evaluate")
@resources(num_cpus=0, shared_storage=True)
def evaluate(candidate: ModelVersion, dataset: DatasetRef, options: EvaluateOptions) -> Evaluation:
    """Score candidate, champion and baseline on the hold-out rows, overall and by slice."""
    settings = Settings()
    tracking_uri = settings.tracking_uri()
    rival = registry.rival(candidate, tracking_uri=tracking_uri)
    return run_stage(
        evaluation.stage(
            candidate,
            dataset,
            champion=rival,
            options=options,
            storage_uri=settings.storage_uri,
            tracking_uri=tracking_uri,
        )
    )
