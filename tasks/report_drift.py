"""Report whether new rows have drifted: a page, a table and an event."""

from prefect import task
from prefect.artifacts import create_table_artifact

from rayworks import resources, storage
from rayworks.monitoring.drift_report import DriftReport, DriftSummary
from rayworks.prefect_api import drift_event, flow_run_links
from rayworks.reporting import drift_page
from rayworks.reporting import report as pages
from rayworks.settings import Settings


@task(name="report-drift")
@resources(num_cpus=0, shared_storage=True)
def report_drift(report: DriftReport) -> DriftSummary:
    """Write the page, create the table of the columns, and emit an event if the data have drifted."""
    folder = storage.join(storage.absolute(Settings().storage_uri), "reports")
    page_uri = storage.join(folder, f"{flow_run_links.flow_run_name()}.html")
    links = {"report": page_uri, "record": report.uri}
    pages.write(page_uri, drift_page.html(report, links))
    rows = pages.readable(drift_page.column_rows(report.columns))
    create_table_artifact(rows, key="drift", description=drift_page.verdict(report))
    if report.drifted:
        drift_event.emit(report, page_uri)
    return DriftSummary(
        uri=page_uri,
        report_uri=report.uri,
        drifted=report.drifted,
        why=report.why,
        summary=tuple(drift_page.summary(report, links)),
    )
