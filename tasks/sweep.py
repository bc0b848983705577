"""RayClusters that nobody uses any more to nothing."""

from prefect import task

from rayworks.cluster.sweep import sweep as sweep_clusters
from rayworks.settings import Settings


@task(name="sweep")
def sweep(namespace: str | None = None) -> list[str]:
    """Delete them, after their logs are saved."""
    return sweep_clusters(storage_uri=Settings().storage_uri, namespace=namespace)
