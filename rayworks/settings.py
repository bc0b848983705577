"""Settings of an installation (``RAYWORKS_*``). The defaults suit a laptop. Imports neither Ray nor Prefect."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayworks import storage
from rayworks.errors import ParameterError

STALL_SECONDS = 300.0
"""After how long a task run that shows nothing is named in the log, unless the setting says otherwise."""


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
    mlflow_ui_url: str | None = Field(
        default=None, description="Where browsers find MLflow. By default the tracking URI if it is a web address."
    )
    ray_address: str | None = Field(
        default=None,
        description="Where Ray runs: 'auto', 'host:port' or 'ray://host:port' of an existing Ray cluster, or a "
        "RayCluster manifest (.yaml, .json) that KubeRay creates for the run. By default Ray starts on this machine.",
    )
    ray_idle_seconds: float = Field(
        default=0,
        ge=0,
        description="Share the manifest's cluster with other runs, and delete it after it was idle for this long. "
        "0: one cluster per run.",
    )
    ray_start_seconds: float = Field(
        default=600, gt=0, description="How long a cluster may take to start, including the time to wait for nodes."
    )
    stall_seconds: float = Field(
        default=STALL_SECONDS,
        gt=0,
        description="After how long a task run that shows nothing is named in the log, with what it is doing. One that "
        "Ray has not started is named after a minute, or after this time if it is shorter.",
    )
    ray_dashboard_url: str | None = Field(
        default=None,
        description="URL template of a RayCluster's dashboard for browsers, with {namespace} and {name}.",
    )
    notify: str | None = Field(
        default=None,
        pattern=r"^[^/]+/[^/]+$",
        description="The slug of a Prefect notification block, such as 'slack-webhook/ops'. It is told of failed runs, "
        "batches that failed, promotions, refusals and drift.",
    )
    image: str | None = Field(default=None, description="Image for the manifest's Ray containers that do not name one.")
    namespace: str | None = Field(
        default=None, description="Namespace of RayClusters. By default that of the pod or of the kubeconfig's context."
    )
    job_name: str | None = Field(
        default=None, description="Name of this run's Job. Kubernetes deletes the RayCluster with it."
    )
    job_uid: str | None = Field(default=None, description="UID of this run's Job.")

    def tracking_uri(self) -> str:
        """Return the URI of MLflow's tracking server and registry.

        Raises:
            ParameterError: The storage is an object store, which cannot hold a database, and no server is configured.
            StorageError: The folder cannot be created.
        """
        if self.mlflow_tracking_uri:
            return self.mlflow_tracking_uri
        if "://" in self.storage_uri:
            raise ParameterError(
                "an object store as storage needs an MLflow server",
                where=self.storage_uri,
                remedy="Set RAYWORKS_MLFLOW_TRACKING_URI to the URL of a server or a database",
            )
        folder = Path(self.storage_uri).expanduser().absolute()
        with storage.explained(str(folder), "write"):
            folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder}/mlflow.db"

    def mlflow_address(self) -> str | None:
        """Return the address under which browsers find MLflow, without a slash at its end; None if there is none."""
        address = self.mlflow_ui_url or self.mlflow_tracking_uri or ""
        return address.rstrip("/") if address.startswith(("http://", "https://")) else None
