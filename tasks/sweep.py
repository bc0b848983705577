"""RayClusters that nobody uses any more to nothing."""

from prefect import get_run_logger, task

from rayworks.cluster.kubernetes import raycluster_manifest
from rayworks.cluster.kubernetes.sweep import sweep as sweep_clusters
from rayworks.prefect_api.lost_runs import report_crashed
from rayworks.settings import Settings


@task(name="sweep")
def sweep(namespace: str | None = None) -> list[str]:
    """Delete them, after their logs are saved, and tell Prefect of the runs that are gone without a word."""
    settings = Settings()
    if not raycluster_manifest.is_manifest(settings.ray_address):
        get_run_logger().info("Runs here use no RayClusters: RAYWORKS_RAY_ADDRESS names no manifest")
        return []
    swept = sweep_clusters(storage_uri=settings.storage_uri, namespace=namespace)
    for flow_run_id, heard in swept.lost_runs.items():
        if name := report_crashed(flow_run_id, heard):
            get_run_logger().warning(
                f"The flow run {name} is Crashed: nothing was heard of it since {heard:%H:%M:%S} UTC"
            )
    return swept.deleted
