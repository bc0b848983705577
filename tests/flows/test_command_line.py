"""Flows as a person runs them: as files, in a process of their own, on a fresh home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayworks import storage
from tests.object_store import object_store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh home with a small table of its own."""
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


def run(home: Path, flow: str, *arguments: str, **own: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAYWORKS_"))}
    environment |= {
        "PREFECT_HOME": str(home / "prefect"),
        "RAYWORKS_STORAGE_URI": str(home / "storage"),
        "COLUMNS": "200",
    } | own
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(ROOT / "flows" / f"{flow}.py"), *arguments]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_own_data_become_a_promoted_model_and_a_second_run_reuses_it(home: Path):
    own = ("--uri", "passengers.csv", "--target", "survived", "--process.feature-function", "my_features:add")
    quick = ("--tune.trials", "2", "--tune.rounds", "20", "--train.rounds", "40", "--evaluate.minimum-slice-rows", "20")
    first = run(home, "pipeline", *own, *quick)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "901 in, 900 kept, 1 set aside" in first.stdout
    assert "Promoted: log_loss" in first.stdout
    assert "●" not in first.stdout, "what has ended is shown as running"
    assert "(raylet)" not in first.stdout + first.stderr, "Ray tells of what is no concern of the user's"
    assert len(list((home / "storage" / "reports").glob("*.html"))) == 1
    second = run(home, "pipeline", *own, *quick)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("↺") == 6, "all but the decision and the report are found again"
    assert "Already the champion" in second.stdout


def test_data_and_all_that_is_made_of_them_may_be_in_an_object_store(home: Path):
    with object_store() as bucket:
        storage.write_bytes(f"{bucket}/raw/passengers.csv", (home / "passengers.csv").read_bytes())
        places = {
            "RAYWORKS_STORAGE_URI": f"{bucket}/rayworks",
            "RAYWORKS_MLFLOW_TRACKING_URI": f"sqlite:///{home}/apart.db",
        }
        own = ("--uri", f"{bucket}/raw/*.csv", "--target", "survived", "--evaluate.minimum-slice-rows", "20")
        quick = ("--tune.trials", "2", "--tune.rounds", "20", "--train.rounds", "40")
        done = run(home, "pipeline", *own, *quick, **places)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Promoted: log_loss" in done.stdout
        kept = {
            uri.removeprefix(f"{bucket}/rayworks/").partition("/")[0]
            for uri, _ in storage.list_files(f"{bucket}/rayworks")
        }
    assert {"datasets", "models", "evaluations", "decisions", "reports"} <= kept


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--uri", "missing.csv", "--target", "y"), 1, "The file or folder does not exist: "),
        (("--uri", "passengers.csv", "--target", "Survived"), 1, "Did you mean 'survived'?"),
        (("--tune.trials", "-1"), 2, "--tune.trials (Input should be greater than or equal to 0)"),
    ],
    ids=["missing file", "unknown target", "bad argument"],
)
def test_bad_input_ends_in_a_sentence_and_not_in_a_trace(home: Path, arguments: tuple[str, ...], code: int, words: str):
    done = run(home, "pipeline", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "encountered an exception" not in done.stdout


def test_help_explains_every_parameter(home: Path):
    done = run(home, "process", "--help")
    assert done.returncode == 0
    assert "--options.split.by" in done.stdout
    assert "The column to predict." in done.stdout


def test_doctor_looks_from_here_and_from_a_worker_and_fails_where_something_is_wrong(home: Path):
    def doctor(*arguments: str, **own: str) -> subprocess.CompletedProcess[str]:
        settings = {"PREFECT_HOME": str(home / "prefect"), "RAYWORKS_STORAGE_URI": str(home / "storage")} | own
        command = [sys.executable, "-m", "rayworks", "doctor", *arguments]
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=280, check=False
        )

    well = doctor()
    assert well.returncode == 0, well.stdout + well.stderr
    assert "same versions, Prefect API and storage reached" in well.stdout
    (home / "a file").touch()
    ill = doctor(
        "--no-worker",
        RAYWORKS_STORAGE_URI=str(home / "a file" / "storage"),
        RAYWORKS_MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )
    assert ill.returncode == 1
    assert [line.split("  ")[0] for line in ill.stdout.splitlines() if line.startswith("✗")] == [
        "✗ storage",
        "✗ MLflow",
    ]
