"""Delete RayClusters that are no longer used."""

from prefect import get_run_logger, task

from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.cluster.kubernetes.sweep import sweep as sweep_clusters
from rayworks.prefect_api.lost_runs import report_crashed_flow_run
from rayworks.settings import Settings


@task(name="sweep")
def sweep(namespace: str | None = None) -> list[str]:
    """Delete unused RayClusters after saving their logs, and report their lost flow runs as Crashed."""
    settings = Settings()
    if not raycluster_manifest.is_manifest(settings.ray_address):
        get_run_logger().info("Flow runs use no RayClusters: RAYWORKS_RAY_ADDRESS is not a manifest")
        return []
    swept = sweep_clusters(storage_uri=settings.storage_uri, namespace=namespace)
    for flow_run_id, last_seen in swept.lost_runs.items():
        if name := report_crashed_flow_run(flow_run_id, last_seen):
            get_run_logger().warning(
                f"The flow run {name} is Crashed: there is no sign of it since {last_seen:%H:%M:%S} UTC"
            )
    return swept.deleted
