"""``pip install rayworks``, without extras: the wheel, in a fresh environment, with the versions that uv.lock names."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayworks.extras import ML_MODULES

ROOT = Path(__file__).resolve().parents[2]
FLOW = """
from prefect import flow, task
from rayworks import RayTaskRunner

@task
def square(number):
    import ray
    return number**2, ray.is_initialized()

@flow(task_runner=RayTaskRunner())
def squares():
    return square.map(range(5)).result()

if __name__ == "__main__":
    print("RESULT", squares())
"""

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


def uv(*arguments: str) -> str:
    command = subprocess.run(["uv", "--quiet", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert command.returncode == 0, command.stderr
    return command.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of a fresh environment with the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("installation")
    environment, locked = folder / "environment", folder / "locked.txt"
    uv("export", "--frozen", "--all-extras", "--no-hashes", "--no-emit-project", f"--output-file={locked}")
    uv("venv", "--python", sys.executable, str(environment))
    uv("pip", "install", "--python", str(environment), "--constraints", str(locked), ".")
    _copy_bytecode(environment)
    yield environment / "bin" / "python"
    shutil.rmtree(environment)


def _copy_bytecode(environment: Path) -> None:
    """Spare the first imports the minute in which Python compiles packages that the environment of this process has."""
    compiled = Path(sysconfig.get_path("purelib"))
    installed = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    for cache in compiled.rglob("__pycache__"):
        package = installed / cache.relative_to(compiled).parent
        if package.is_dir():
            shutil.copytree(cache, package / "__pycache__", dirs_exist_ok=True)


def test_the_wheel_holds_the_library_and_its_licence_only(tmp_path: Path):
    uv("build", "--wheel", f"--out-dir={tmp_path}")
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/")]
    metadata = [name for name in files if ".dist-info/" in name]
    assert {name.partition("/")[0] for name in set(files) - set(metadata)} == {"rayworks"}
    assert {name for name in set(files) - set(metadata) if not name.endswith(".py")} == {
        "rayworks/py.typed",
        "rayworks/reporting/drift.html.j2",
        "rayworks/reporting/figure.html.j2",
        "rayworks/reporting/report.css",
        "rayworks/reporting/report.html.j2",
    }
    assert [name.rpartition("/")[2] for name in metadata if "/licenses/" in name] == ["LICENSE"]


def test_the_runner_and_the_clusters_need_none_of_the_models_libraries(python: Path):
    code = f"import importlib.util as util; print(*[name for name in {ML_MODULES} if util.find_spec(name)])"
    brought = subprocess.check_output([str(python), "-c", code], text=True).split()
    assert set(brought) <= {"jinja2"}  # which Prefect needs


def test_a_flow_runs_its_tasks_on_embedded_ray(python: Path, prefect_home: Path, tmp_path: Path):
    (tmp_path / "squares.py").write_text(FLOW)
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(prefect_home),
        "RAYWORKS_STORAGE_URI": str(tmp_path / "storage"),
    }
    flow = subprocess.run(
        [str(python), "squares.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert flow.returncode == 0, flow.stdout + flow.stderr
    assert f"RESULT {[(number**2, True) for number in range(5)]}" in flow.stdout


def test_a_room_that_needs_the_models_libraries_names_the_extra(python: Path):
    imported = subprocess.run(
        [str(python), "-c", "import rayworks.training"], capture_output=True, text=True, check=False
    )
    assert imported.stderr.splitlines()[-1] == (
        "rayworks.errors.MissingExtraError: The models' libraries are not installed: mlflow, numpy, optuna, pandas, "
        "polars, scipy, sklearn, xgboost. Run: pip install 'rayworks[ml]'. "
        "Ray workers need them as well: add them to the image."
    )
