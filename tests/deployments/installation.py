"""An installation on a laptop for the tests: ``deployments/local.py`` with ports and folders of its own."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from rayworks.free_port import free_port
from rayworks.prefect_api import _private
from tests.marked_processes import MARK, processes_with
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "deployments" / "local.py"
NOTIFY = "custom-webhook/ops"
QUICK = {"tune": {"trials": 0}, "train": {"rounds": 5}, "serve_check": {"rows": 5}}
"""Parameters of a retraining that takes seconds."""


def arrive(source: Path, name: str) -> None:
    """Write a file of 300 rows with the target ``amount`` to a source."""
    rows = [f"{i},{3 * i + 1}" for i in range(300)]
    (source / f"{name}.csv").write_text("\n".join(["n,amount", *rows]))


@contextmanager
def using(api_url: str) -> Iterator[Any]:
    """Make a server the Prefect API of this process, and yield a client of it."""
    from prefect.client.orchestration import get_client

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", api_url)
        patch.setenv("RAYWORKS_NOTIFY", NOTIFY)
        _private.read_settings_again()
        with get_client(sync_client=True) as client:
            yield client
    _private.read_settings_again()


@dataclass
class Installation:
    """A running ``deployments/local.py``. All its descendants inherit a mark in their environment."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    api_url: str = ""
    """Of a server that runs already; empty: it starts its own."""

    def start(self, **settings: str) -> None:
        """Start it with these environment variables, and return when it says where to look."""
        prefect = {"PREFECT_API_URL": self.api_url}
        if not self.api_url:
            port = free_port()
            self.api_url = f"http://127.0.0.1:{port}/api"
            prefect = {"PREFECT_SERVER_API_PORT": str(port)}
        inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        own = {
            **prefect,
            MARK: self.mark,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "MLFLOW_PORT": str(free_port()),
            "RAYWORKS_STORAGE_URI": str(self.folder / "storage"),
            "RAYWORKS_NOTIFY": NOTIFY,
            "PYTHONPATH": str(self.folder),
            **settings,
        }
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(LOCAL)],
                cwd=self.folder,
                env={**inherited, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def is_ready() -> bool:
            assert self.process.poll() is None, self.output()
            return "Storage:" in self.output()

        eventually(is_ready, 400, self.output)

    def output(self) -> str:
        """What it has printed, and the log of its worker."""
        worker = self.folder / "prefect" / "rayworks" / "worker.log"
        return (self.folder / "log").read_text() + (worker.read_text() if worker.exists() else "")

    def processes(self) -> list[str]:
        """The IDs and command lines of its live processes."""
        return processes_with(self.mark)


@dataclass(frozen=True)
class Runs:
    """Starts flow runs of an installation and waits for them."""

    installation: Installation
    client: Any

    def start(self, deployment: str, **parameters: Any) -> UUID:
        """Start a flow run of a deployment, and return its id."""
        from prefect.states import Scheduled

        entry = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(entry.id, parameters=parameters, state=Scheduled()).id

    def ended(self, flow_run_id: UUID, seconds: float = 180) -> Any:
        """Wait until a flow run has ended, and return it."""

        def final() -> Any:
            run = self.client.read_flow_run(flow_run_id)
            return run if run.state is not None and run.state.is_final() else None

        return eventually(final, seconds, lambda: f"the run did not end: {self.installation.output()}", every=0.5)

    def completed(self, flow_run_id: UUID, seconds: float = 180) -> Any:
        """Wait until a flow run has completed, and return it."""
        run = self.ended(flow_run_id, seconds)
        assert run.state.is_completed(), (run.state, self.installation.output())
        return run

    def named(self, name: str) -> list[Any]:
        """The flow runs whose names contain a text, the oldest first."""
        from prefect.client.schemas.filters import FlowRunFilter

        runs = self.client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"name": {"like_": name}}))
        return sorted(runs, key=lambda run: run.created)
