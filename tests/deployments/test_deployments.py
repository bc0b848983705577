"""Every deployment of prefect.yaml can be started from its form in the Prefect UI."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from rayworks.params import TrainOptions
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def load_flow(entrypoint: str):
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(str(ROOT / entrypoint), use_placeholder_flow=False)


def test_every_flow_is_a_deployment():
    files = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert {deployment["entrypoint"] for deployment in DEPLOYMENTS} == {f"flows/{name}.py:{name}" for name in files}
    assert all(
        deployment["name"] == deployment["entrypoint"].partition(":")[2] and deployment["description"]
        for deployment in DEPLOYMENTS
    )


@pytest.mark.parametrize("entrypoint", [deployment["entrypoint"] for deployment in DEPLOYMENTS])
def test_the_form_describes_every_parameter_and_its_defaults_are_valid(entrypoint: str):
    flow = load_flow(entrypoint)
    form = flow.parameters.model_dump()
    undescribed: list[str] = []

    def check(properties: dict[str, Any], where: str) -> None:
        for name, field in properties.items():
            model = form["definitions"].get(field.get("$ref", "").rpartition("/")[2], {})
            if field.get("title", name) == name or not (field.get("description") or model.get("description")):
                undescribed.append(where + name)
            check(model.get("properties", {}), f"{where}{name}.")

    check(form["properties"], "")
    assert undescribed == []
    defaults = {name: field["default"] for name, field in form["properties"].items() if "default" in field}
    required = {name: 1 if form["properties"][name]["type"] == "integer" else "text" for name in form["required"]}
    flow.validate_parameters({**required, **defaults})


def test_a_literal_parameter_is_a_list_of_choices():
    form = load_flow("flows/pipeline.py:pipeline").parameters.definitions
    assert "auto" in form["ProcessOptions"]["properties"]["problem"]["enum"]


def test_the_form_keeps_its_order_in_a_database_that_sorts_the_keys():
    form = load_flow("flows/pipeline.py:pipeline").parameters.definitions
    fields = form["TrainOptions"]["properties"]
    jumbled = sorted(fields, key=lambda name: (len(name), name))  # the order of PostgreSQL's jsonb
    assert sorted(jumbled, key=lambda name: fields[name]["position"]) == list(TrainOptions.model_fields)


@dataclass(frozen=True)
class Served:
    """An installation on a laptop: ``deployments/local.py`` beside a Prefect server."""

    folder: Path
    client: Any
    log: Path

    def start(self, deployment: str, **parameters: Any) -> UUID:
        """Start a flow run of a deployment, and return its id."""
        from prefect.states import Scheduled

        entry = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(entry.id, parameters=parameters, state=Scheduled()).id

    def completed(self, flow_run_id: UUID, seconds: float = 120) -> Any:
        """Wait until a flow run has completed, and return it."""

        def ended() -> Any:
            run = self.client.read_flow_run(flow_run_id)
            return run if run.state is not None and run.state.is_final() else None

        run = eventually(ended, seconds, "the run did not end")
        assert run.state.is_completed(), (run.state, self.log.read_text())
        return run


@pytest.fixture(scope="module")
def served(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    folder = tmp_path_factory.mktemp("served")
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "RAYWORKS_STORAGE_URI": str(folder / "storage")}
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(ROOT / "deployments" / "local.py")]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        with get_client(sync_client=True) as client:

            def is_served() -> bool:
                try:  # the last one of prefect.yaml
                    client.read_deployment_by_name(f"{DEPLOYMENTS[-1]['name']}/{DEPLOYMENTS[-1]['name']}")
                except ObjectNotFound:
                    assert process.poll() is None, (folder / "log").read_text()
                    return False
                return True

            eventually(is_served, 60, "the deployments are not served")
            yield Served(folder, client, folder / "log")
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_run_of_a_served_deployment_on_a_csv_file_completes(served: Served):
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter

    rows = [f"{i},{'yes' if i % 3 else 'no'},{'red' if i % 2 else ''}" for i in range(300)]
    (served.folder / "answers.csv").write_text("\n".join(["n,answer,colour", *rows]))
    run = served.completed(served.start("process/process", uri=str(served.folder / "answers.csv"), target="answer"))
    this_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    summary = ArtifactFilter.model_validate({"key": {"any_": ["summary"]}})
    [artifact] = served.client.read_artifacts(flow_run_filter=this_run, artifact_filter=summary)
    assert "300 in, 300 kept, 0 rejected" in str(artifact.data)


def test_a_file_that_arrives_starts_one_retraining_that_learns_from_it(served: Served):
    from prefect.client.schemas.filters import FlowRunFilter

    from rayworks.monitoring import arrivals

    source = served.folder / "lake"
    source.mkdir()

    def arrive(name: str) -> None:
        rows = [f"{i},{3 * i + 1}" for i in range(300)]
        (source / f"{name}.csv").write_text("\n".join(["n,amount", *rows]))

    def look() -> None:
        options = {"settle_seconds": 0}
        quick = {"tune": {"trials": 0}, "train": {"rounds": 5}, "serve_check": {"rows": 5}}
        parameters = {"watch": "lake", "source": str(source), "target": "amount", "options": options, **quick}
        served.completed(served.start("watch/watch", **parameters))

    def retrainings() -> list[Any]:
        return served.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"name": {"like_": "lake-batch"}})
        )

    arrive("2024")
    look()
    assert retrainings() == []
    arrive("2025")
    look()
    look()  # while the retraining waits or runs
    [run] = retrainings()
    assert (run.name, run.parameters["arrived"]) == ("lake-batch-1", [str(source / "2025.csv")])
    served.completed(run.id, seconds=240)
    look()
    ledger = arrivals.read(arrivals.location(str(served.folder / "storage"), "lake"))
    assert {number: result.state for number, result in ledger.results.items()} == {0: "history", 1: "done"}
    assert ledger.results[1].reason.startswith("Promoted: ")
    assert len(retrainings()) == 1
    [dataset] = (served.folder / "storage" / "datasets").glob("lake-*/dataset.json")
    assert json.loads(dataset.read_text())["rows_in"] == 600


def test_sweeping_goes_on_after_a_sweep_that_failed(monkeypatch: pytest.MonkeyPatch):
    from deployments.kubernetes import sweep as sweeping

    class Ended(BaseException):
        pass

    outcomes = iter([OSError("the Prefect server is away"), None, Ended()])
    waits: list[float] = []
    logged: list[BaseException | None] = []

    def sweep() -> None:
        if outcome := next(outcomes):
            raise outcome

    monkeypatch.setattr(sweeping, "sweep", sweep)
    monkeypatch.setattr(sweeping.time, "sleep", waits.append)
    monkeypatch.setattr(sweeping.logger, "exception", lambda *_: logged.append(sys.exc_info()[1]))
    with pytest.raises(Ended):
        sweeping.main()
    assert waits == [sweeping.EVERY_SECONDS] * 2
    assert [str(error) for error in logged] == ["the Prefect server is away"]
