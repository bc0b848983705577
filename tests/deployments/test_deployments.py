"""What prefect.yaml names can be started by people who see nothing but a form."""

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
LISTED: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def flow_of(entrypoint: str):
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(str(ROOT / entrypoint), use_placeholder_flow=False)


def test_every_flow_is_a_deployment():
    files = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert {one["entrypoint"] for one in LISTED} == {f"flows/{name}.py:{name}" for name in files}
    assert all(one["name"] == one["entrypoint"].partition(":")[2] and one["description"] for one in LISTED)


@pytest.mark.parametrize("entrypoint", [one["entrypoint"] for one in LISTED])
def test_the_form_explains_every_parameter_and_its_defaults_are_accepted(entrypoint: str):
    flow = flow_of(entrypoint)
    form = flow.parameters.model_dump()
    unexplained: list[str] = []

    def look(properties: dict[str, Any], where: str) -> None:
        for name, field in properties.items():
            model = form["definitions"].get(field.get("$ref", "").rpartition("/")[2], {})
            if field.get("title", name) == name or not (field.get("description") or model.get("description")):
                unexplained.append(where + name)
            look(model.get("properties", {}), f"{where}{name}.")

    look(form["properties"], "")
    assert unexplained == []
    shown = {name: field["default"] for name, field in form["properties"].items() if "default" in field}
    flow.validate_parameters({**dict.fromkeys(form["required"], "given"), **shown})


def test_a_choice_is_a_list_to_choose_from():
    form = flow_of("flows/pipeline.py:pipeline").parameters.definitions
    assert "auto" in form["ProcessOptions"]["properties"]["problem"]["enum"]


def test_the_form_keeps_its_order_in_a_database_that_does_not():
    form = flow_of("flows/pipeline.py:pipeline").parameters.definitions
    fields = form["TrainOptions"]["properties"]
    jumbled = sorted(fields, key=lambda name: (len(name), name))  # as PostgreSQL's jsonb keeps them
    assert sorted(jumbled, key=lambda name: fields[name]["position"]) == list(TrainOptions.model_fields)


def test_a_run_of_a_served_deployment_with_own_data_completes(prefect_api: str, tmp_path: Path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Scheduled

    rows = [f"{i},{'yes' if i % 3 else 'no'},{'red' if i % 2 else ''}" for i in range(300)]
    (tmp_path / "own.csv").write_text("\n".join(["n,answer,colour", *rows]))
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "RAYWORKS_STORAGE_URI": str(tmp_path / "storage")}
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, str(ROOT / "deployments" / "local.py")]
    served = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        with get_client(sync_client=True) as client:
            found: list[Any] = []

            def is_there() -> bool:
                try:
                    found.append(client.read_deployment_by_name("process/process"))
                except ObjectNotFound:
                    return served.poll() is not None
                return True

            eventually(is_there, 60, "the deployments are not served")
            assert found, (tmp_path / "log").read_text()
            parameters = {"uri": str(tmp_path / "own.csv"), "target": "answer"}
            run = client.create_flow_run_from_deployment(found[0].id, parameters=parameters, state=Scheduled())

            def has_ended() -> bool:
                state = client.read_flow_run(run.id).state
                return state is not None and state.is_final()

            eventually(has_ended, 120, "the run did not end")
            state = client.read_flow_run(run.id).state
            assert state is not None
            assert state.is_completed(), (state, (tmp_path / "log").read_text())
            here = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            summary = ArtifactFilter.model_validate({"key": {"any_": ["summary"]}})
            [shown] = client.read_artifacts(flow_run_filter=here, artifact_filter=summary)
            assert "300 in, 300 kept, 0 set aside" in str(shown.data)
    finally:
        served.terminate()
        served.wait(timeout=60)
