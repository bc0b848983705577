"""Report whether new rows have drifted: a page, a table, an event and a notification."""

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from rayworks import resources, storage
from rayworks.evaluation import registry
from rayworks.monitoring.drift_report import DriftReport, DriftSummary
from rayworks.prefect_api import drift_event, flow_run_links, notifications
from rayworks.reporting import drift_page
from rayworks.reporting import report as pages
from rayworks.settings import Settings


@task(name="report-drift")
@resources(num_cpus=0, shared_storage=True)
def report_drift(report: DriftReport) -> DriftSummary:
    """Write the page, create the table of the columns, and tell if the data have drifted."""
    settings = Settings()
    run = flow_run_links.flow_run_name()
    folder, file = storage.join(storage.absolute(settings.storage_uri), "reports"), f"{run}.html"
    page_uri = storage.join(folder, file)
    links = {"report": page_uri, "record": report.uri}
    mlflow = settings.mlflow_address()
    uris = {"tracking_uri": settings.tracking_uri(), "storage_uri": settings.storage_uri}
    name, version = report.model.name, report.model
    if report.evidently_uri:
        page, beside = storage.read_bytes(report.evidently_uri).decode(), f"{run}-evidently.html"
        links["evidently"] = storage.join(folder, beside)
        pages.write(links["evidently"], page)
        if mlflow:
            links["evidently"] = mlflow + registry.keep_page(page, beside, experiment=name, version=version, **uris)
            create_link_artifact(links["evidently"], link_text="Evidently's page on a sample", key="evidently")
    page = drift_page.html(report, links)
    pages.write(page_uri, page)
    if mlflow:
        links["report"] = mlflow + registry.keep_page(page, file, experiment=name, version=version, **uris)
        create_link_artifact(links["report"], link_text="The report", key="report")
    rows = pages.readable(drift_page.column_rows(report.columns))
    create_table_artifact(rows, key="drift", description=drift_page.verdict(report))
    if report.drifted:
        drift_event.emit(report, links["report"])
        if storage.create(f"{report.uri.removesuffix('.json')}.told.json", b"{}"):  # not at each run on the same files
            body = "\n".join([*report.why, links["report"]])
            notifications.tell(f"The data of {report.model.name} have drifted", body)
    return DriftSummary(
        uri=page_uri,
        report_uri=report.uri,
        drifted=report.drifted,
        why=report.why,
        summary=tuple(drift_page.summary(report, links)),
    )
