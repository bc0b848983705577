"""Report a run: an HTML page and Prefect artifacts."""

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from rayworks import resources, storage
from rayworks.data import manifest
from rayworks.evaluation import registry
from rayworks.prefect_api import flow_run_links
from rayworks.records import (
    DatasetRef,
    Evaluation,
    ModelRef,
    ModelVersion,
    PromotionDecision,
    Report,
    ServeCheck,
    TuneResult,
)
from rayworks.reporting import report as pages
from rayworks.reporting.report import readable
from rayworks.settings import Settings


@task(name="report")
@resources(num_cpus=0, shared_storage=True)
def report(
    dataset: DatasetRef,
    tuned: TuneResult | None = None,
    model: ModelRef | None = None,
    version: ModelVersion | None = None,
    evaluation: Evaluation | None = None,
    serve_check: ServeCheck | None = None,
    decision: PromotionDecision | None = None,
) -> Report:
    """Write the HTML page, and create the artifacts of the flow run."""
    settings = Settings()
    mlflow, tracking_uri = settings.mlflow_address(), settings.tracking_uri()
    file = f"{flow_run_links.flow_run_name()}.html"
    page_uri = storage.join(storage.absolute(settings.storage_uri), "reports", file)
    links = {"report": page_uri, "dataset": dataset.uri, **flow_run_links.links(mlflow, tracking_uri, version)}
    run = pages.Run(
        title=dataset.name,
        dataset=manifest.load(dataset),
        tune=tuned,
        model=model,
        version=version,
        evaluation=evaluation,
        serve_check=serve_check,
        decision=decision,
        seconds=flow_run_links.task_seconds(),
        links=links,
    )
    page = pages.html(**run)
    pages.write(page_uri, page)
    if mlflow:  # a browser follows no link to a path, which may be on another machine besides
        uris = {"tracking_uri": tracking_uri, "storage_uri": settings.storage_uri}
        links["report"] = mlflow + registry.keep_page(page, file, experiment=dataset.name, version=version, **uris)
        create_link_artifact(links["report"], link_text="The report", key="report")
        create_link_artifact(links["MLflow"], link_text="The model in MLflow", key="mlflow")
    create_markdown_artifact(pages.markdown(**run), key="summary", description="Summary of the run")
    if tuned:
        create_table_artifact(readable(pages.trial_rows(tuned)), key="trials", description="Trials, the best first")
    if evaluation:
        create_table_artifact(
            readable(pages.metric_rows(evaluation)), key="metrics", description="Metrics on the hold-out rows"
        )
        create_table_artifact(
            readable(pages.slice_rows(evaluation)), key="slices", description="Metrics by slice, the worst first"
        )
    return Report(
        uri=page_uri,
        address=links["report"],
        promoted=decision.promoted if decision else None,
        summary=tuple(pages.summary(**run)),
    )
