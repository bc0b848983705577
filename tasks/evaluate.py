"""A candidate to its metrics, beside baseline and champion."""

from typing import Any

from prefect import task

from rayworks import resources, storage
from rayworks.evaluation import evaluation, registry
from rayworks.params import EvaluateOptions
from rayworks.prefect_api.task_progress import TaskProgress, reused
from rayworks.records import DatasetRef, Evaluation, ModelVersion
from rayworks.settings import Settings


@task(name="evaluate")
@resources(num_cpus=0)
def evaluate(candidate: ModelVersion, dataset: DatasetRef, options: EvaluateOptions) -> Evaluation | Any:
    """Score the hold-out rows, overall and by slice."""
    settings = Settings()
    tracking_uri = settings.tracking_uri()
    rival = registry.rival(candidate, tracking_uri=tracking_uri)
    champion_uri = rival.uri if rival else None
    where = evaluation.location(candidate.uri, dataset, champion_uri, options, storage_uri=settings.storage_uri)
    if storage.exists(where):
        return reused(storage.read_record(where, Evaluation), where)
    return evaluation.evaluate(
        candidate.uri,
        dataset,
        champion_uri=champion_uri,
        options=options,
        storage_uri=settings.storage_uri,
        tracking_uri=tracking_uri,
        progress=TaskProgress(),
    )
