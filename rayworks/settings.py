"""Where things are: one frozen settings class, ``RAYWORKS_*``. The defaults are a laptop. Knows neither Ray nor Prefect."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayworks import storage
from rayworks.errors import ParameterError


class Settings(BaseSettings):
    """Settings of an installation, read from the environment when constructed (never at import)."""

    model_config = SettingsConfigDict(env_prefix="RAYWORKS_", frozen=True, extra="forbid")

    storage_uri: str = Field(
        default_factory=lambda: str(Path.home() / ".rayworks"),
        description="Folder or object-store prefix that holds datasets, models, reports, checkpoints and results.",
    )
    mlflow_tracking_uri: str | None = Field(
        default=None, description="MLflow server or database. By default a SQLite file in the storage folder."
    )
    ray_address: str | None = Field(
        default=None,
        description="Where Ray runs: 'auto', 'host:port' or 'ray://host:port' of a running Ray, or a RayCluster manifest "
        "(.yaml, .json) that KubeRay brings up for the run. By default Ray is started on this machine.",
    )
    ray_idle_seconds: float = Field(
        default=0,
        ge=0,
        description="Share the manifest's cluster with other runs, and keep it until no run has used it for so long. "
        "0: a cluster for each run.",
    )
    ray_start_seconds: float = Field(
        default=600, gt=0, description="How long a cluster may take to come up, with whatever nodes it has to wait for."
    )
    ray_dashboard_url: str | None = Field(
        default=None,
        description="Where browsers find the dashboard of a RayCluster, with {namespace} and {name} in it.",
    )
    image: str | None = Field(default=None, description="Image for Ray containers of the manifest that name none.")
    namespace: str | None = Field(
        default=None, description="Where RayClusters are made. By default the pod's own, or that of the kubeconfig."
    )
    job_name: str | None = Field(
        default=None, description="The Job that this run is; Kubernetes ends its RayCluster with it."
    )
    job_uid: str | None = Field(default=None, description="UID of that Job.")

    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry.

        Raises:
            ParameterError: The storage is an object store, which cannot hold a database, and no server is named.
            StorageError: The folder cannot be made.
        """
        if self.mlflow_tracking_uri:
            return self.mlflow_tracking_uri
        if "://" in self.storage_uri:
            raise ParameterError(
                "a storage that is no folder needs an MLflow server",
                where=self.storage_uri,
                remedy="Set RAYWORKS_MLFLOW_TRACKING_URI to the server's URL, or to a database",
            )
        folder = Path(self.storage_uri).expanduser().absolute()
        with storage.explained(str(folder), "write"):
            folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder}/mlflow.db"
