"""Digests of code: what changes them, and what does not. No Ray."""

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayworks import code_digest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own modules, on the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    sources = {
        "my_features.py": "import json\nfrom my_rates import RATE\ndef add(rows):\n    return rows\n",
        "my_rates.py": "RATE = 2\n",
        "unrelated.py": "",
        "my_package/__init__.py": "",
        "my_package/features.py": "from .shared import scale\nfrom . import names\n",
        "my_package/shared/__init__.py": "from my_package.shared.scale import scale\n",
        "my_package/shared/scale.py": "def scale(x):\n    import my_lazy\n    return x\n",
        "my_package/names.py": "import my_package.features\n",
        "my_package/unrelated.py": "",
        "my_lazy.py": "",
        "my_folder/inner/steps.py": "from my_folder.inner.more import x\n",
        "my_folder/inner/more.py": "x = 1\n",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(source)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("my_features", "my_features.py"),
        ("my_features", "my_rates.py"),
        *(
            ("my_package.features", file)
            for file in (
                "my_package/__init__.py",
                "my_package/features.py",
                "my_package/shared/__init__.py",
                "my_package/shared/scale.py",
                "my_package/names.py",
                "my_lazy.py",
            )
        ),
        ("my_folder.inner.steps", "my_folder/inner/steps.py"),  # folders without __init__.py
        ("my_folder.inner.steps", "my_folder/inner/more.py"),
    ],
)
def test_the_digest_changes_with_every_module_of_the_users_own_that_is_imported(folder: Path, module: str, file: str):
    first = code_digest.of_modules(module)
    assert code_digest.of_modules(module) == first
    (folder / file).write_text((folder / file).read_text() + "CHANGED = True\n")
    assert code_digest.of_modules(module) != first


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("my_features", "unrelated.py"),
        ("my_features", "my_lazy.py"),
        ("my_package.features", "my_package/unrelated.py"),
    ],
)
def test_the_digest_does_not_change_with_a_module_that_is_not_imported(folder: Path, module: str, file: str):
    first = code_digest.of_modules(module)
    (folder / file).write_text("CHANGED = True\n")
    assert code_digest.of_modules(module) == first


def test_no_module_is_run_for_the_digest(folder: Path):
    (folder / "my_rates.py").write_text("raise RuntimeError\n")
    (folder / "my_package/__init__.py").write_text("raise RuntimeError\n")
    code_digest.of_modules("my_features", "my_package.features")
    assert not {"my_features", "my_rates", "my_package"} & set(sys.modules)


def test_installed_packages_do_not_count_unless_the_module_is_in_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    installed = code_digest._installation_folders()
    monkeypatch.setattr(code_digest, "_installation_folders", lambda: (*installed, folder))
    first, in_a_package = code_digest.of_modules("my_features"), code_digest.of_modules("my_package.features")
    (folder / "my_rates.py").write_text("RATE = 3\n")
    (folder / "my_package/names.py").write_text("")
    assert code_digest.of_modules("my_features") == first
    assert code_digest.of_modules("my_package.features") != in_a_package


def test_a_source_that_is_no_python_and_a_module_without_a_file_count_too(folder: Path):
    (folder / "my_rates.py").write_text("def unfinished(\n")
    first = code_digest.of_modules("my_features")
    (folder / "my_rates.py").write_text("def finished(\n")
    assert code_digest.of_modules("my_features") != first
    assert code_digest.of_modules("math") != code_digest.of_modules("time")


class LetsAnotherThreadRun:
    """Garbage that does so when it is collected, in the midst of whatever its thread does then."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        time.sleep(0)


def test_several_threads_may_compute_digests_at_a_time():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def digest(_: int) -> str:
        LetsAnotherThreadRun()
        return code_digest.of_modules("_pytest.python")

    try:
        with ThreadPoolExecutor(2) as pool:
            assert len(set(pool.map(digest, range(6)))) == 1
    finally:
        sys.setswitchinterval(interval)


def test_the_digest_of_the_library_changes_with_its_rooms_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = tmp_path / "rayworks"
    shutil.copytree(code_digest.LIBRARY, library, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digest, "LIBRARY", library)
    digest = code_digest.of_library.__wrapped__  # without its cache
    first = digest("data", "models")
    (library / "runner/worker.py").write_text("")
    assert digest("data", "models") == first
    for file in ("data/validation.py", "models/xgboost.py", "metrics.py"):
        before = digest("data", "models")
        (library / file).write_text("")
        assert digest("data", "models") != before, file


def test_every_room_of_a_digest_exists():
    for name in ("data", "models", "training", "evaluation", "serving"):
        assert code_digest.of_library(name) != code_digest.of_library()
