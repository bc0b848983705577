"""Where things are: one frozen settings class, ``RAYWORKS_*``. The defaults are a laptop. Knows neither Ray nor Prefect."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
