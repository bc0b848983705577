"""Flows as a user runs them: as files, in a separate process, with an empty home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayworks import storage
from tests.object_store import object_store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home folder with a small table and a feature function."""
    folder = tmp_path_factory.mktemp("home")
    lines = ["id,survived,class,sex,age"]
    for i in range(900):
        sex, age = "mf"[i * 7 % 2], "" if i % 9 == 0 else i * 37 % 80
        survived = "yes" if (i * 7919 % 100 < (75 if sex == "f" else 20)) else "no"
        lines.append(f"{i},{survived},{i % 3 + 1},{sex},{age}")
    (folder / "passengers.csv").write_text("\n".join([*lines, "900,yes,1,m,unknown"]) + "\n")
    function = "def add(rows):\n    rows['is_child'] = (rows['age'] < 12).astype(int)\n    return rows\n"
    (folder / "my_features.py").write_text(function)
    return folder


def run(home: Path, flow: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAYWORKS_"))}
    environment |= {
        "PREFECT_HOME": str(home / "prefect"),
        "RAYWORKS_STORAGE_URI": str(home / "storage"),
        "COLUMNS": "200",
    } | variables
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(ROOT / "flows" / f"{flow}.py"), *arguments]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_a_file_becomes_a_promoted_model_also_behind_a_proxy_and_a_second_run_reuses_every_stage(home: Path):
    data = ("--uri", "passengers.csv", "--target", "survived", "--process.feature-function", "my_features:add")
    quick = ("--tune.trials", "2", "--train.rounds", "40", "--evaluate.minimum-slice-rows", "20")
    # A proxy for the network, which nothing on this machine is behind.
    first = run(home, "pipeline", *data, *quick, http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "901 in, 900 kept, 1 rejected" in first.stdout
    assert "Promoted: log_loss" in first.stdout
    assert "●" not in first.stdout, "a task run that has ended is shown as running"
    assert "(raylet)" not in first.stdout + first.stderr, "a message of Ray that does not concern the user"
    assert len(list((home / "storage" / "reports").glob("*.html"))) == 1
    second = run(home, "pipeline", *data, *quick)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("↺") == 6, "every task run but the decision and the report is reused"
    assert "Already the champion" in second.stdout


def test_data_and_results_may_be_in_an_object_store(home: Path):
    with object_store() as bucket:
        storage.write_bytes(f"{bucket}/raw/passengers.csv", (home / "passengers.csv").read_bytes())
        settings = {
            "RAYWORKS_STORAGE_URI": f"{bucket}/rayworks",
            "RAYWORKS_MLFLOW_TRACKING_URI": f"sqlite:///{home}/apart.db",
        }
        data = ("--uri", f"{bucket}/raw/*.csv", "--target", "survived", "--evaluate.minimum-slice-rows", "20")
        quick = ("--tune.trials", "2", "--train.rounds", "40")
        result = run(home, "pipeline", *data, *quick, **settings)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Promoted: log_loss" in result.stdout
        folders = {
            uri.removeprefix(f"{bucket}/rayworks/").partition("/")[0]
            for uri, _ in storage.list_files(f"{bucket}/rayworks")
        }
    assert {"datasets", "models", "evaluations", "decisions", "reports"} <= folders


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--uri", "missing.csv", "--target", "y"), 1, "The file or folder does not exist: "),
        (("--uri", "passengers.csv", "--target", "Survived"), 1, "Did you mean 'survived'?"),
        (("--tune.trials", "-1"), 2, "--tune.trials (Input should be greater than or equal to 0)"),
    ],
    ids=["missing file", "unknown target", "bad argument"],
)
def test_invalid_input_ends_in_a_sentence_without_a_traceback(
    home: Path, arguments: tuple[str, ...], code: int, words: str
):
    result = run(home, "pipeline", *arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert words in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert "encountered an exception" not in result.stdout


def test_help_explains_every_parameter(home: Path):
    result = run(home, "process", "--help")
    assert result.returncode == 0
    assert "--options.split.by" in result.stdout
    assert "The column to predict." in result.stdout


def test_the_sweep_starts_no_ray_and_does_nothing_where_no_cluster_is_created(home: Path):
    result = run(home, "sweep")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "starting Prefect\n" in result.stdout


def test_doctor_checks_from_here_and_from_a_worker_and_names_what_fails(home: Path):
    def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        settings = {"PREFECT_HOME": str(home / "prefect"), "RAYWORKS_STORAGE_URI": str(home / "storage")} | variables
        command = [sys.executable, "-m", "rayworks", "doctor", *arguments]
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=280, check=False
        )

    passed = doctor()
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "same versions, Prefect API and storage reached" in passed.stdout
    as_flow = run(home, "doctor")
    assert as_flow.returncode == 0, as_flow.stdout + as_flow.stderr
    assert "same versions, Prefect API and storage reached" in as_flow.stdout
    (home / "a file").touch()
    failed = doctor(
        "--no-worker",
        RAYWORKS_STORAGE_URI=str(home / "a file" / "storage"),
        RAYWORKS_MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )
    assert failed.returncode == 1
    assert [line.split("  ")[0] for line in failed.stdout.splitlines() if line.startswith("✗")] == [
        "✗ storage",
        "✗ MLflow",
    ]
