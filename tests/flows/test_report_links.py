"""The report of a flow run opens from the run's artifacts, in a browser that sees no file of the run's machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import made_up_run
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient

from rayworks import free_port, storage
from rayworks.monitoring.drift_report import ColumnDrift, DriftReport, DriftSummary
from rayworks.records import ColumnStatistics, DatasetRef, Report
from tasks.report import report
from tasks.report_drift import report_drift
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(600)  # two servers start, which compete for two cores with other tests

HEADING = "Version 2 is the new champion"


@dataclass(frozen=True)
class Server:
    """An MLflow server, as the installations run it, on SQLite."""

    address: str
    database: str


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port.free_port()
    options = ["--workers", "1", "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *options]
    server = Server(f"http://127.0.0.1:{port}", f"sqlite:///{folder}/mlflow.db")
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": server.database,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def responds() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{server.address}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    try:
        eventually(responds, 300, lambda: (folder / "log").read_text())
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def links(client: SyncPrefectClient, flow_run_name: str) -> dict[str, str]:
    """The links among the artifacts of a flow run."""
    runs = {"flow_runs": {"name": {"any_": [flow_run_name]}}}
    artifacts = client.request("POST", "/artifacts/filter", json=runs).json()
    found = [(each["key"], each["data"]) for each in artifacts if each["type"] == "markdown"]
    return {key: data.rpartition("(")[2].rstrip(")") for key, data in found if key != "summary"}


@pytest.mark.parametrize("case", ["a model, by the server", "data alone, by the server's database"])
def test_the_report_opens_from_the_artifacts_of_the_run(
    case: str,
    mlflow_server: Server,
    client: SyncPrefectClient,
    browser,
    storage_uri: str,
    monkeypatch: pytest.MonkeyPatch,
):
    from mlflow import MlflowClient

    has_model = case.startswith("a model")
    tracking_uri = mlflow_server.address if has_model else mlflow_server.database
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", storage_uri)
    monkeypatch.setenv("RAYWORKS_MLFLOW_TRACKING_URI", tracking_uri)
    # Flows reach MLflow at one address, and browsers at another, as on Kubernetes.
    monkeypatch.setenv("RAYWORKS_MLFLOW_UI_URL", mlflow_server.address.replace("127.0.0.1", "localhost") + "/")
    records = made_up_run.run()
    uri = f"{storage_uri}/datasets/trips"
    storage.write_record(f"{uri}/dataset.json", records["dataset"].model_copy(update={"uri": uri}))
    dataset = DatasetRef.model_construct(uri=uri, name="trips")
    mlflow = MlflowClient(tracking_uri, tracking_uri)
    stages: dict[str, Any] = {}
    if has_model:
        run_id = mlflow.create_run(mlflow.create_experiment("rides")).info.run_id
        version = records["version"].model_copy(update={"run_id": run_id})
        stages = {"version": version, "evaluation": records["evaluation"], "decision": records["decision"]}

    name = f"nightly #1 of 50% / {case}"

    @flow(flow_run_name=name)
    def reporting() -> Report:
        return report(dataset, **stages)

    address = reporting().address
    shown = links(client, name)
    assert address == shown["report"]
    page = browser.new_page()
    page.goto(shown["report"])
    assert page.url.startswith("http://localhost:")
    heading = HEADING if has_model else "10,000 rows are ready"
    page.frame_locator("iframe").get_by_role("heading", name=heading).wait_for(timeout=60_000)
    page.close()
    assert shown["mlflow"].startswith("http://localhost:")
    if has_model:
        assert run_id in shown["report"], "it is kept with the run of the model"


def test_evidently_s_page_opens_from_the_artifacts_of_a_run_that_monitors(
    mlflow_server: Server, client: SyncPrefectClient, browser, storage_uri: str, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    monkeypatch.setenv("RAYWORKS_STORAGE_URI", storage_uri)
    monkeypatch.setenv("RAYWORKS_MLFLOW_TRACKING_URI", mlflow_server.address)
    mlflow = MlflowClient(mlflow_server.address, mlflow_server.address)
    run_id = mlflow.create_run(mlflow.create_experiment("trams")).info.run_id
    storage.write_bytes(f"{storage_uri}/drift/trams.evidently.html", b"<h1>A page of Evidently</h1>")
    statistics = ColumnStatistics(name="fare", kind="numeric", rows=100, missing=0)
    compared = ColumnDrift(
        before=statistics,
        now=statistics,
        distance=0.0,
        threshold=0.1,
        missing=0.0,
        missing_threshold=0.125,
        shift=None,
        shift_threshold=0.25,
        drifted=None,
    )
    record = DriftReport(
        uri=f"{storage_uri}/drift/trams.json",
        model=made_up_run.run()["version"].model_copy(update={"name": "trams", "run_id": run_id}),
        dataset_uri=f"{storage_uri}/datasets/trams",
        source="/data/new",
        files=1,
        rows_in=100,
        rows_kept=100,
        rows_rejected=0,
        reasons={},
        minimum_rows=10,
        columns=(compared,),
        left_out={},
        prediction=compared,
        error=None,
        drifted=False,
        why=(),
        evidently_uri=f"{storage_uri}/drift/trams.evidently.html",
    )

    @flow(flow_run_name="monitor trams")
    def monitoring() -> DriftSummary:
        return report_drift(record)

    summary = monitoring()
    shown = links(client, "monitor trams")
    assert dict(summary.summary)["evidently"] == shown["evidently"]
    assert run_id in shown["evidently"]
    kept = storage.read_bytes(summary.uri.replace(".html", "-evidently.html"))
    assert kept == b"<h1>A page of Evidently</h1>"
    assert f'href="{shown["evidently"]}"' in storage.read_bytes(summary.uri).decode().replace("&#39;", "'")
    page = browser.new_page()
    page.goto(shown["evidently"])
    page.frame_locator("iframe").get_by_role("heading", name="A page of Evidently").wait_for(timeout=60_000)
    page.close()
