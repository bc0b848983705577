"""A run's records to what people look at: a page, and Prefect artifacts."""

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from rayworks import flow_run_links, storage
from rayworks.records import (
    DatasetRef,
    Evaluation,
    ModelRef,
    ModelVersion,
    PromotionDecision,
    Report,
    ServeCheck,
    TuneResult,
)  # fmt: skip
from rayworks.runner import resources
from rayworks.settings import Settings
from rayworks.stages import processing
from rayworks.stages import report as pages


@task(name="report")
@resources(num_cpus=0)
def report(
    dataset: DatasetRef, tuned: TuneResult | None = None, model: ModelRef | None = None, version: ModelVersion | None = None,
    evaluation: Evaluation | None = None, serve_check: ServeCheck | None = None, decision: PromotionDecision | None = None,
) -> Report:  # fmt: skip
    """Write the page, and create the artifacts of the flow run."""
    settings = Settings()
    page_uri = storage.join(storage.absolute(settings.storage_uri), "reports", f"{flow_run_links.flow_run_name()}.html")
    run = pages.Run(
        title=dataset.name, dataset=processing.load(dataset), tune=tuned, model=model, version=version, evaluation=evaluation,
        serve_check=serve_check, decision=decision, seconds=flow_run_links.task_seconds(),
        links={"report": page_uri, "dataset": dataset.uri, **flow_run_links.places(settings.tracking_uri())},
    )  # fmt: skip
    pages.write(page_uri, pages.html(**run))
    create_markdown_artifact(pages.markdown(**run), key="summary", description="What came out of the run")
    if tuned:
        create_table_artifact(pages.trial_rows(tuned), key="trials", description="Trials of the search, the best first")
    if evaluation:
        create_table_artifact(pages.metric_rows(evaluation), key="metrics", description="Metrics on the hold-out rows")
        create_table_artifact(pages.slice_rows(evaluation), key="slices", description="Metrics by slice, the worst first")
    create_link_artifact(storage.as_link(page_uri), link_text="Report of the run", key="report")
    return Report(uri=page_uri, promoted=decision.promoted if decision else None, summary=tuple(pages.summary(**run)))
