"""RayClusters that nobody uses any more to nothing."""

from prefect import get_run_logger, task

from rayworks.cluster import raycluster
from rayworks.cluster.sweep import sweep as sweep_clusters
from rayworks.settings import Settings


@task(name="sweep")
def sweep(namespace: str | None = None) -> list[str]:
    """Delete them, after their logs are saved."""
    settings = Settings()
    if not raycluster.is_manifest(settings.ray_address):
        get_run_logger().info("Runs here use no RayClusters: RAYWORKS_RAY_ADDRESS names no manifest")
        return []
    return sweep_clusters(storage_uri=settings.storage_uri, namespace=namespace)
