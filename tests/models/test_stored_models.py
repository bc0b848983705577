"""Stored models: those of earlier versions load, and each model is stored as its class says."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks import import_path
from rayworks.errors import RegistryError
from rayworks.models import stored
from rayworks.models.contract import StoredModel
from rayworks.models.tabular import TabularModel
from rayworks.models.xgboost import XGBoostModel
from rayworks.params import TrainOptions
from rayworks.records import Column, Feature, FeatureSet, Target
from tests.models import own_models

STORED = sorted(path for path in Path(__file__).with_name("stored").iterdir() if path.is_dir())
FEATURES = FeatureSet(
    columns=(Column(name="x", kind="numeric", dtype="float"),),
    features=(Feature(name="x", kind="numeric", source="x"),),
)
AMOUNT = Target(name="y", problem="regression")
# Each is written into stored models or their records. A module or name that moves leaves users with models that no
# longer load: keep the old name working instead.
FROZEN = {
    "rayworks.models.stored:read": "pyfunc.py, which is copied into each MLflow model",
    "rayworks.models.xgboost:XGBoostModel": "model.json of each model of the built-in loop",
    "rayworks.training.loops.xgboost:train": "records of trained models, and the default of train.loop",
}

versions = pytest.mark.parametrize("place", STORED, ids=[path.name for path in STORED])


def recorded(place: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The raw rows and the predictions that were recorded beside a stored model."""
    return pd.read_parquet(place / "rows.parquet"), pd.DataFrame(json.loads((place / "predictions.json").read_text()))


def assert_same(predictions: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(predictions.columns) == list(expected.columns)
    assert predictions["prediction"].tolist() == expected["prediction"].tolist()
    probabilities = list(expected.columns[1:])
    np.testing.assert_allclose(predictions[probabilities], expected[probabilities], rtol=1e-5)


@versions
def test_a_model_that_a_released_version_stored_predicts_the_same(place: Path):
    rows, expected = recorded(place)
    assert_same(stored.load(str(place / "model")).predict(rows), expected)


WITH_MLFLOW = """
import sys
import pandas as pd
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pd.read_parquet(sys.argv[2])).to_json(orient="split"))
"""


@versions
def test_mlflow_alone_loads_it_and_has_nothing_to_warn_of(place: Path, tmp_path: Path):
    command = [sys.executable, "-c", WITH_MLFLOW, str(place / "model"), str(place / "rows.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    _, expected = recorded(place)
    assert_same(pd.DataFrame(**json.loads(done.stdout)), expected)
    # MLflow compares the minor version of Python, and is right to: a pickled model may depend on it.
    python = "The version of Python that the model was saved in"
    assert [line for line in done.stderr.splitlines() if python not in line] == []


@pytest.mark.parametrize("path", FROZEN)
def test_an_import_path_that_is_stored_still_exists(path: str):
    module, _, name = path.partition(":")
    assert getattr(importlib.import_module(module), name).__module__ == module


def test_the_code_in_each_mlflow_model_uses_a_single_name_of_rayworks():
    for code in [Path(stored.__file__).with_name("pyfunc.py"), *(place / "model" / "pyfunc.py" for place in STORED)]:
        tree = ast.parse(code.read_text())
        modules = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and str(n.module).startswith("rayworks")]
        assert [(n.module, [a.name for a in n.names]) for n in modules] == [("rayworks.models", ["stored"])]
        attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
        assert {n.attr for n in attributes if isinstance(n.value, ast.Name) and n.value.id == "stored"} == {"read"}


def test_the_paths_that_are_written_are_among_the_frozen_ones():
    names = {json.loads(path.read_text())["model_class"] for path in Path(__file__).parent.rglob("model.json")}
    assert names | {TrainOptions().loop} <= set(FROZEN)


def round_trip(model: object, folder: Path) -> TabularModel:
    stored.write(TabularModel(FEATURES, AMOUNT, model), folder / "model")  # type: ignore[arg-type]
    return stored.read(folder / "model")


def test_a_model_with_its_own_files_is_stored_by_its_own_methods_and_never_pickled(tmp_path: Path):
    assert isinstance(own_models.Saved(3.0), StoredModel)
    loaded = round_trip(own_models.Saved(3.0), tmp_path)
    assert loaded.predict(pd.DataFrame({"x": [0.0]}))["prediction"].tolist() == [3.0]
    assert json.loads((tmp_path / "model/model.json").read_text())["model_class"] == "tests.models.own_models:Saved"
    assert (tmp_path / "model/saved/value.json").read_text() == "3.0"
    assert not (tmp_path / "model/model.pkl").exists()


def test_the_built_in_model_is_a_stored_model_like_any_other():
    assert issubclass(XGBoostModel, StoredModel)


@pytest.mark.parametrize("kind", [own_models.Constant, own_models.LoadsIntoAnInstance])
def test_any_other_model_is_pickled(kind: type[own_models.Constant], tmp_path: Path):
    loaded = round_trip(kind(3.0), tmp_path)
    assert loaded.predict(pd.DataFrame({"x": [0.0]}))["prediction"].tolist() == [3.0]
    assert (tmp_path / "model/model.pkl").exists()


def test_a_model_whose_class_cannot_be_imported_by_its_name_is_pickled_by_value(tmp_path: Path):
    class Local(own_models.Constant):
        def save(self, folder: Path) -> None:
            raise AssertionError("its class has no import path")

        @classmethod
        def load(cls, folder: Path) -> "Local":
            raise AssertionError("its class has no import path")

    assert round_trip(Local(3.0), tmp_path).predict(pd.DataFrame({"x": [0.0]}))["prediction"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "nowhere:Forest",
            r"nowhere:Forest \(the module could not be imported: ModuleNotFoundError.*Install the package",
        ),
        ("tests.models.own_models:Gone", r"own_models:Gone \(the module has no function 'Gone'"),
        ("tests.models.own_models:Constant", r"own_models:Constant \(it has no class method load"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_named_with_the_reason(path: str, words: str, tmp_path: Path):
    round_trip(own_models.Saved(3.0), tmp_path)
    manifest = json.loads((tmp_path / "model/model.json").read_text())
    (tmp_path / "model/model.json").write_text(json.dumps({**manifest, "model_class": path}))
    with pytest.raises(RegistryError, match=rf"^The class of the model cannot be loaded: .*{words}"):
        stored.read(tmp_path / "model")


def test_a_pickled_model_whose_module_is_not_installed_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "their_models.py").write_text(inspect.getsource(own_models))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = import_path.load("their_models:Constant")(3.0)
    folder = tmp_path / "mlflow" / "artifacts" / stored.ARTIFACT
    stored.write(TabularModel(FEATURES, AMOUNT, model), folder)
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "their_models")
    assert b"their_models" in (folder / "model.pkl").read_bytes()
    words = r"The model cannot be loaded: .*mlflow \(the class of the model cannot be loaded: their_models:Constant: "
    with pytest.raises(RegistryError, match=rf"^{words}ModuleNotFoundError.*Install the package that defines it"):
        stored.load(str(tmp_path / "mlflow"))
