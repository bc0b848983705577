"""The event that a champion's data have drifted, for automations."""

from uuid import NAMESPACE_URL, uuid5

from rayworks.monitoring.drift_report import DriftReport

NAME = "rayworks.drift"


def emit(report: DriftReport, page_uri: str) -> None:
    """Emit that the data of a model have drifted. Prefect ignores the event of a report that it has already."""
    from prefect.events import emit_event

    emit_event(
        NAME,
        resource={
            "prefect.resource.id": f"rayworks.model.{report.model.name}",
            "prefect.resource.name": report.model.name,
        },
        payload={"model": report.model.uri, "source": report.source, "why": list(report.why), "page": page_uri},
        id=uuid5(NAMESPACE_URL, report.uri),
    )
