"""Models as MLflow stores them: saved after training, loaded for evaluation and serving.

A stored model is an MLflow ``pyfunc`` model made of code (``pyfunc.py``), with a folder that holds a manifest and the
trained model. A model that implements ``contract.StoredModel`` writes its own files there; any other is pickled.
Loading a model imports the class that its manifest names, and unpickling runs code: load models only from a registry
whose writers you trust.

The name ``rayworks.models.stored.read`` is part of the stored format, see ``pyfunc.py``.
"""

import inspect
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from rayworks import __version__, import_path, storage
from rayworks.errors import RayworksError, RegistryError, TrainingError, TransferError, named
from rayworks.models import _private
from rayworks.models.contract import Model, StoredModel
from rayworks.models.predictions import finite
from rayworks.models.tabular import TabularModel
from rayworks.records import Dataset, FeatureSet, Record, Target

if TYPE_CHECKING:
    import pandas as pd

ARTIFACT = "rayworks_model"
"""The folder in an MLflow model's ``artifacts`` that holds the files below."""
MANIFEST = "model.json"
SAVED, PICKLED = "saved", "model.pkl"
EXAMPLE_ROWS = 5
# Not the exact versions: a later version of rayworks loads the models of earlier ones, and MLflow would warn of the
# difference at each load. MLflow adds an exact version of itself if it is not named.
REQUIREMENTS = [f"rayworks[ml]>={__version__}", "mlflow"]


class Manifest(Record):
    """``model.json``: what the model predicts, from what, and how it is stored."""

    feature_set: FeatureSet
    target: Target
    model_class: str
    """Import path of the model's class."""
    stored: Literal["saved", "pickled"]
    """Whether the class wrote the files itself, into ``saved/``, or the model was pickled, into ``model.pkl``."""


def save(model: Model, uri: str, *, dataset: Dataset, metadata: dict[str, str]) -> None:
    """Store ``model`` as an MLflow model in the folder ``uri``.

    Args:
        model: What a training loop returned.
        uri: The folder to write.
        dataset: What the model was trained on. It provides the features, the signature and the input example.
        metadata: Added to the ``MLmodel`` file.

    Raises:
        StorageError: The folder cannot be written.
        TrainingError: The model cannot predict the rows of the input example, or its ``save`` failed.
        TransferError: The model cannot be pickled.
    """
    import mlflow.pyfunc
    from pyarrow import fs

    _private.silence_mlflow()
    example = example_rows(dataset)
    predictions = TabularModel(dataset.feature_set, dataset.target, model).predict(example)
    finite(predictions.select_dtypes("number").to_numpy())
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        write(TabularModel(dataset.feature_set, dataset.target, model), Path(name) / ARTIFACT)
        mlflow.pyfunc.save_model(
            path=str(Path(name) / "model"),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={ARTIFACT: str(Path(name) / ARTIFACT)},
            signature=signature(dataset, predictions),
            input_example=example,
            pip_requirements=REQUIREMENTS,  # MLflow would take a minute to infer them
            metadata={
                **metadata,
                "target": dataset.target.name,
                "problem": dataset.target.problem,
                "dataset_uri": dataset.uri,
            },
        )
        files, path = storage.filesystem(uri)
        with storage.explained(uri, "write"):
            files.create_dir(path, recursive=True)
            fs.copy_files(str(Path(name) / "model"), path, destination_filesystem=files)


def example_rows(dataset: Dataset) -> "pd.DataFrame":
    """Return a few raw rows of the test split."""
    from rayworks.data import split_rows

    names = [column.name for column in dataset.feature_set.columns]
    return split_rows.first_rows(dataset, "test", names, EXAMPLE_ROWS).to_pandas()


def signature(dataset: Dataset, predictions: "pd.DataFrame") -> Any:
    """Return MLflow's declaration of the input and output columns.

    Inputs may have any type: the model converts values as processing does. MLflow would refuse what pandas makes of a
    file: times as text, whole numbers as floats where some are missing, or floats as whole numbers where all are.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = [ColSpec(AnyType(), column.name, required=column.required) for column in dataset.feature_set.columns]
    label = {"f": DataType.double, "i": DataType.long, "b": DataType.boolean}.get(
        predictions["prediction"].dtype.kind, DataType.string
    )
    outputs = [ColSpec(label, "prediction"), *(ColSpec(DataType.double, str(name)) for name in predictions.columns[1:])]
    return ModelSignature(Schema(cast(Any, inputs)), Schema(cast(Any, outputs)))


def write(model: TabularModel, folder: Path) -> None:
    """Write the manifest and the trained model into ``folder``, as ``read`` reads them."""
    folder.mkdir(parents=True)
    kind = type(model.model)
    path = f"{kind.__module__}:{kind.__qualname__}"
    saves_itself = _saves_itself(model.model)
    manifest = Manifest(
        feature_set=model.feature_set,
        target=model.target,
        model_class=path,
        stored="saved" if saves_itself else "pickled",
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    if saves_itself:
        (folder / SAVED).mkdir()
        _save_itself(cast(StoredModel, model.model), folder / SAVED)
    else:
        with (folder / PICKLED).open("wb") as file:
            _pickle(model.model, file)


def _save_itself(model: StoredModel, folder: Path) -> None:
    try:
        model.save(folder)
    except Exception as error:  # the model may be the user's: it may raise anything
        raise TrainingError(
            "the model could not be saved",
            where=type(model).__name__,
            detail=named(error),
            remedy="Fix its method save",
        ) from error


def check_storable(model: Model, *, loop: str) -> None:
    """Check that a model which does not save itself can be pickled.

    Args:
        model: What a training loop returned.
        loop: Its import path.

    Raises:
        TransferError: It cannot.
    """
    if not _saves_itself(model):
        with Path(os.devnull).open("wb") as nowhere:
            _pickle(model, nowhere, loop)


def _pickle(model: Model, file: BinaryIO, loop: str = "") -> None:
    import cloudpickle

    try:
        cloudpickle.dump(model, file)
    except Exception as error:  # the code of any object in it may run
        bad = [name for name, value in getattr(model, "__dict__", {}).items() if not _is_picklable(value)]
        raise TransferError(
            "the model of the training loop cannot be pickled",
            where=", ".join([*filter(None, [loop]), type(model).__name__, *(f"its attribute {name}" for name in bad)]),
            detail=named(error),
            remedy="Remove that from the model before the loop returns it, or give its class the methods save and load",
        ) from error


def _is_picklable(value: Any) -> bool:
    import cloudpickle

    try:
        with Path(os.devnull).open("wb") as nowhere:
            cloudpickle.dump(value, nowhere)
    except Exception:
        return False
    return True


def _saves_itself(model: Model) -> bool:
    """Whether the model implements ``StoredModel``: a ``load`` that is a class method, of a class with an import path.

    A class that was defined in a function or in the main script cannot be imported by its name. Its models are pickled.
    """
    kind = type(model)
    has_methods = callable(getattr(kind, "save", None)) and inspect.ismethod(getattr(kind, "load", None))
    importable = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
    return has_methods and importable and kind.__module__ != "__main__"


def read(folder: Path) -> TabularModel:
    """Return the model that ``write`` stored in ``folder``.

    Raises:
        RegistryError: The model's class cannot be imported, or cannot load the files.
        ParameterError: The feature function cannot be imported.
    """
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    if manifest.feature_set.function:
        import_path.load(manifest.feature_set.function)
    load_model = _load_saved if manifest.stored == "saved" else _load_pickled
    return TabularModel(manifest.feature_set, manifest.target, load_model(folder, manifest.model_class))


def _load_saved(folder: Path, model_class: str) -> Model:
    try:
        kind = cast(type[StoredModel], import_path.load(model_class))
    except RayworksError as error:
        raise _no_class(model_class, f"{error.what}: {error.detail}") from error
    if not inspect.ismethod(getattr(kind, "load", None)):
        raise _no_class(model_class, "it has no class method load")
    return kind.load(folder / SAVED)


def _load_pickled(folder: Path, model_class: str) -> Model:
    import cloudpickle

    try:
        return cast(Model, cloudpickle.loads((folder / PICKLED).read_bytes()))
    except (ImportError, AttributeError) as error:  # pickles name modules and their classes
        raise _no_class(model_class, named(error)) from error


def _no_class(model_class: str, detail: str) -> RegistryError:
    return RegistryError(
        "the class of the model cannot be loaded",
        where=model_class,
        detail=detail,
        remedy="Install the package that defines it, or put its module into the working directory",
    )


def load(uri: str, *, tracking_uri: str | None = None) -> TabularModel:
    """Return the model at ``uri``.

    Args:
        uri: A folder, or ``models:/name/version`` or ``models:/name@alias`` of the registry.
        tracking_uri: The registry.

    Raises:
        RegistryError: There is no such model, or it cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        try:
            return read(fetch(uri, Path(name), tracking_uri=tracking_uri) / "artifacts" / ARTIFACT)
        except RayworksError as error:
            facts = (error.what, error.where if error.where != uri else "", error.detail)
            raise RegistryError(
                "the model cannot be loaded", where=uri, detail=": ".join(filter(None, facts)), remedy=error.remedy
            ) from error
        except Exception as error:  # MLflow, file systems and models raise errors of many classes
            raise RegistryError(
                "the model cannot be loaded",
                where=uri,
                detail=named(error),
                remedy="Check the name, and that the registry and its artifacts can be reached",
            ) from error


def fetch(uri: str, folder: Path, *, tracking_uri: str | None = None) -> Path:
    """Return a local folder with the MLflow model at ``uri``. Whatever must be copied is copied into ``folder``."""
    from pyarrow import fs

    if uri.startswith("models:/"):
        import mlflow.artifacts
        from mlflow import MlflowClient

        _private.silence_mlflow()
        # Resolved by our own client: `download_artifacts` resolves models:/ by the registry of the whole process.
        client = MlflowClient(tracking_uri, tracking_uri)
        name, _, version = uri.removeprefix("models:/").partition("@" if "@" in uri else "/")
        if "@" in uri:
            version = str(client.get_model_version_by_alias(name, version).version)
        uri = client.get_model_version_download_uri(name, version)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=tracking_uri))
    files, path = storage.filesystem(uri)
    if isinstance(files, fs.LocalFileSystem):
        return Path(path)
    fs.copy_files(path, str(folder), source_filesystem=files)
    return folder
