"""Where things are: one frozen settings class, ``RAYWORKS_*``. The defaults are a laptop. Knows neither Ray nor Prefect."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rayworks.errors import ParameterError


class Settings(BaseSettings):
    """Settings of an installation, read from the environment when constructed (never at import)."""

    model_config = SettingsConfigDict(env_prefix="RAYWORKS_", frozen=True, extra="forbid")

    storage_uri: str = Field(
        default_factory=lambda: str(Path.home() / ".rayworks"),
        description="Folder or object-store prefix that holds datasets, models, reports, checkpoints and results.",
    )
    mlflow_tracking_uri: str | None = Field(
        default=None,
        description="MLflow server or database. By default a SQLite file in the storage folder.",
    )
    ray_address: str | None = Field(
        default=None,
        description="A running Ray: 'auto', 'host:port' or 'ray://host:port'. By default Ray is started for the run.",
    )

    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry.

        Raises:
            ParameterError: The storage is an object store, which cannot hold a database, and no server is named.
        """
        if self.mlflow_tracking_uri:
            return self.mlflow_tracking_uri
        if "://" in self.storage_uri:
            raise ParameterError(
                "a storage that is no folder needs an MLflow server", where=self.storage_uri,
                remedy="Set RAYWORKS_MLFLOW_TRACKING_URI to the server's URL, or to a database",
            )  # fmt: skip
        folder = Path(self.storage_uri).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder}/mlflow.db"
