"""The report of a flow run opens from the run's artifacts, in a browser that sees no file of the run's machine."""

import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import made_up_run
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient

from rayworks import free_port, storage
from rayworks.records import DatasetRef, ModelVersion
from tasks.report import report
from tests.waiting import eventually

HEADING = "Version 2 is the new champion"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server, as Kubernetes runs it but for its database."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port.free_port()
    options = ["--workers", "1", "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *options]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def responds() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    try:
        eventually(responds, 120, lambda: (folder / "log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def settings(mlflow_server: str, storage_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows reach MLflow at one address, and browsers at another, as on Kubernetes."""
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", storage_uri)
    monkeypatch.setenv("RAYWORKS_MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("RAYWORKS_MLFLOW_UI_URL", mlflow_server.replace("127.0.0.1", "localhost") + "/")


def links(client: SyncPrefectClient, flow_run_name: str) -> dict[str, str]:
    """The links among the artifacts of a flow run."""
    runs = {"flow_runs": {"name": {"any_": [flow_run_name]}}}
    artifacts = client.request("POST", "/artifacts/filter", json=runs).json()
    found = [(each["key"], each["data"]) for each in artifacts if each["type"] == "markdown"]
    return {key: data.rpartition("(")[2].rstrip(")") for key, data in found if key != "summary"}


@pytest.mark.parametrize("registered", [True, False], ids=["with a model", "without a model"])
def test_the_report_opens_from_the_artifacts_of_the_run(
    registered: bool, mlflow_server: str, settings: None, client: SyncPrefectClient, browser, storage_uri: str
):
    from mlflow import MlflowClient

    records = made_up_run.run()
    uri = f"{storage_uri}/datasets/trips"
    storage.write_record(f"{uri}/dataset.json", records["dataset"].model_copy(update={"uri": uri}))
    dataset = DatasetRef.model_construct(uri=uri, name="trips")
    version: ModelVersion | None = None
    if registered:
        mlflow = MlflowClient(mlflow_server, mlflow_server)
        run_id = mlflow.create_run(mlflow.create_experiment("rides")).info.run_id
        version = records["version"].model_copy(update={"run_id": run_id})
    name = f"nightly #1 of 50% / {registered}"

    @flow(flow_run_name=name)
    def reporting() -> None:
        report(dataset, version=version, evaluation=records["evaluation"], decision=records["decision"])

    reporting()
    shown = links(client, name)
    page = browser.new_page()
    page.goto(shown["report"])
    assert page.url.startswith("http://localhost:")
    page.frame_locator("iframe").get_by_role("heading", name=HEADING).wait_for(timeout=60_000)
    assert shown["mlflow"].startswith("http://localhost:")
    assert (run_id in page.url) if registered else True
