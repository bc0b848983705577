"""Every deployment of prefect.yaml can be started from its form in the Prefect UI."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def test_a_run_of_a_served_deployment_on_a_csv_file_completes(prefect_api: str, tmp_path: Path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Scheduled

    rows = [f"{i},{'yes' if i % 3 else 'no'},{'red' if i % 2 else ''}" for i in range(300)]
    (tmp_path / "answers.csv").write_text("\n".join(["n,answer,colour", *rows]))
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "RAYWORKS_STORAGE_URI": str(tmp_path / "storage")}
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, str(ROOT / "deployments" / "local.py")]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        with get_client(sync_client=True) as client:
            deployments: list[Any] = []

            def is_served() -> bool:
                try:
                    deployments.append(client.read_deployment_by_name("process/process"))
                except ObjectNotFound:
                    return server.poll() is not None
                return True

            eventually(is_served, 60, "the deployments are not served")
            assert deployments, (tmp_path / "log").read_text()
            parameters = {"uri": str(tmp_path / "answers.csv"), "target": "answer"}
            run = client.create_flow_run_from_deployment(deployments[0].id, parameters=parameters, state=Scheduled())

            def has_ended() -> bool:
                state = client.read_flow_run(run.id).state
                return state is not None and state.is_final()

            eventually(has_ended, 120, "the run did not end")
            state = client.read_flow_run(run.id).state
            assert state is not None
            assert state.is_completed(), (state, (tmp_path / "log").read_text())
            this_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            summary = ArtifactFilter.model_validate({"key": {"any_": ["summary"]}})
            [artifact] = client.read_artifacts(flow_run_filter=this_run, artifact_filter=summary)
            assert "300 in, 300 kept, 0 rejected" in str(artifact.data)
    finally:
        server.terminate()
        server.wait(timeout=60)


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
