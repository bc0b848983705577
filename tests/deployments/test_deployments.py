"""Every deployment of prefect.yaml can be started from its form in the Prefect UI."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayworks.params import TrainOptions

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
