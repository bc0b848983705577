"""The rules that keep the layers apart. Nothing starts Ray."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TASKS = sorted(path.stem for path in (ROOT / "tasks").glob("*.py") if path.stem != "__init__")
FLOWS = sorted(path.stem for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__")
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def run_in_new_interpreter(code: str, *arguments: str, cwd: Path | None = None, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_the_library_loads_nothing_heavy():
    heavy = {"ray", "prefect", "mlflow", "xgboost", "pandas", "polars", "kubernetes", "sklearn", "optuna"}
    loaded = run_in_new_interpreter(
        "import sys, rayworks, rayworks.settings, rayworks.params, rayworks.records, rayworks.errors, rayworks.storage;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    assert heavy & set(loaded.split()) == set()


def test_importing_the_package_loads_none_of_its_modules():
    loaded = run_in_new_interpreter(
        "import sys, rayworks; print(*(name for name in sys.modules if 'rayworks' in name))"
    )
    assert loaded.split() == ["rayworks"]


def test_importing_the_task_runner_loads_prefect_but_neither_ray_nor_a_library_of_data_or_models():
    heavy = {"mlflow", "numpy", "optuna", "pandas", "polars", "pyarrow", "sklearn", "xgboost", "kubernetes", "jinja2"}
    # prefect_ray puts a placeholder for `ray` into sys.modules, so an import shows by Ray's own modules.
    code = "import sys; from rayworks import RayTaskRunner, resources, ray_running; print(*sys.modules)"
    loaded = run_in_new_interpreter(code).split()
    assert "prefect_ray.task_runners" in loaded
    assert [name for name in loaded if name.partition(".")[0] in heavy or name.startswith("ray.")] == []


def test_every_public_name_exists_and_is_typed():
    import rayworks

    tree = ast.parse((ROOT / "rayworks" / "__init__.py").read_text())
    (for_type_checkers,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = [alias.name for node in for_type_checkers.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted([*typed, "__version__"]) == sorted(rayworks.__all__)
    assert set(rayworks.__all__) <= set(dir(rayworks))
    for name in typed:
        assert getattr(rayworks, name).__name__ == name
    assert (ROOT / "rayworks" / "py.typed").exists()


def test_an_unknown_public_name_is_an_attribute_error():
    import rayworks

    with pytest.raises(AttributeError, match="module 'rayworks' has no attribute 'RayTaskRuner'"):
        _ = rayworks.RayTaskRuner


def test_importing_the_flows_writes_no_file_and_starts_no_ray(tmp_path: Path):
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1]);"
        "import flows.pipeline; import ray; assert not ray.is_initialized();"
        "print(os.path.exists(os.environ['RAYWORKS_STORAGE_URI']))"
    )
    os.environ["RAYWORKS_STORAGE_URI"] = str(tmp_path / "never")
    try:
        assert run_in_new_interpreter(code, str(ROOT), cwd=tmp_path).strip() == "False"
    finally:
        del os.environ["RAYWORKS_STORAGE_URI"]


def test_every_task_loads_where_only_the_library_is_installed(tmp_path: Path):
    """A Ray worker has the library without flows/ and tasks/, so a task may only name the library."""
    for name in TASKS:
        task = getattr(importlib.import_module(f"tasks.{name}"), name)
        (tmp_path / f"{name}.pickle").write_bytes(cloudpickle.dumps(task))
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "rayworks").symlink_to(ROOT / "rayworks")
    code = (
        "import pickle, sys; root, *names = sys.argv[1:];"
        "sys.path[:] = [p for p in sys.path if p != root];"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__.lower()];"
        "[pickle.load(open(f'{name}.pickle', 'rb')) for name in names];"
        "assert 'tasks' not in sys.modules; print(len(names))"
    )
    loaded = run_in_new_interpreter(code, str(ROOT), *TASKS, cwd=tmp_path, path=tmp_path / "library")
    assert loaded.strip() == str(len(TASKS))


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_a_deployment_names_a_flow_that_loads(deployment: dict):
    from prefect.flows import load_flow_from_entrypoint

    assert load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"])).name == deployment["name"]


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_file_hides_no_module(name: str):
    """Prefect puts flows/ first on sys.path: a flow file with the name of a library would hide it."""
    code = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]) is None)"
    assert run_in_new_interpreter(code, name, cwd=Path("/")).strip() == "True"


@pytest.mark.parametrize("folder", ["flows", "tasks"])
def test_a_file_in_flows_and_tasks_defines_one_function(folder: str):
    for path in (ROOT / folder).glob("*.py"):
        body = ast.parse(path.read_text()).body
        definitions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        assert len(definitions) <= 1, f"{path} defines {[node.name for node in definitions]}"


ML_ROOMS = ("data", "models", "monitoring", "training", "evaluation", "serving", "reporting")


@pytest.mark.parametrize("room", ML_ROOMS)
def test_a_room_that_needs_the_models_libraries_checks_for_them_at_import(room: str):
    assert "require_ml()" in (ROOT / "rayworks" / room / "__init__.py").read_text().splitlines()


def test_no_other_room_imports_the_models_libraries():
    """``rayworks/metrics.py`` is for the rooms that require them."""
    from rayworks.extras import ML_MODULES

    others = [path for path in (ROOT / "rayworks").rglob("*.py") if path.relative_to(ROOT).parts[1] not in ML_ROOMS]
    users = {path.relative_to(ROOT).as_posix() for path in others if imported_packages(path) & set(ML_MODULES)}
    assert users == {"rayworks/metrics.py"}


def imported_packages(path: Path) -> set[str]:
    """The first part of every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names
