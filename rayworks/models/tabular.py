"""A trained model with all it takes to answer for raw rows: what is evaluated, registered and served.

It is kept as an MLflow model: a ``pyfunc`` made of code (``rayworks/models/pyfunc.py``), with the feature declaration and
the predictor beside it. Trees are kept in XGBoost's own format; whatever else a loop returns is pickled, and loading it
runs code: load models only from a registry whose writers you trust.
"""

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rayworks import __version__, import_path, storage
from rayworks.errors import DataError, RegistryError, TrainingError
from rayworks.models.contract import Model
from rayworks.records import Column, Dataset, FeatureSet, Target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl

ARTIFACT = "rayworks_model"  # the folder in an MLflow model that holds what is ours
EXAMPLE_ROWS = 5


class TabularModel:
    """Raw rows in, predictions out."""

    def __init__(self, feature_set: FeatureSet, target: Target, model: Model) -> None:
        self.feature_set, self.target, self.model = feature_set, target, model

    def predict(self, raw: "pd.DataFrame") -> "pd.DataFrame":
        """Predictions for raw rows, a row for a row.

        Args:
            raw: Rows with the columns of ``feature_set``; those that are missing count as null, others are not looked at.

        Returns:
            ``prediction`` (amount or label) and, for classes, ``probability_<class>`` for each; the index of ``raw``.

        Raises:
            DataError: A value cannot be understood as what its column holds.
        """
        import pandas as pd

        scores = self.score(self._typed(raw))
        if self.target.problem == "regression":
            return pd.DataFrame({"prediction": scores}, index=raw.index)
        labels = [self.target.classes[number] for number in scores.argmax(axis=1)]
        probabilities = {f"probability_{label}": scores[:, i] for i, label in enumerate(self.target.classes)}
        return pd.DataFrame({"prediction": labels, **probabilities}, index=raw.index)

    def score(self, typed: "pl.DataFrame") -> "np.ndarray":
        """Amounts (rows), or probabilities (rows by classes), for typed rows."""
        import numpy as np

        from rayworks.data import features

        classes = len(self.target.classes)
        if typed.is_empty():
            return np.empty((0, classes) if classes else 0)
        encoded = features.encode(features.transform(typed, self.feature_set), self.feature_set.features)
        ask = cast(Any, self.model).predict_proba if classes else self.model.predict
        try:
            scores = np.asarray(ask(encoded), dtype="float64")
        except Exception as error:  # the model is the user's: whatever it raises is the answer
            raise TrainingError(
                "the model failed to predict",
                where=type(self.model).__name__,
                detail=f"{type(error).__name__}: {error}",
                remedy="Mend the training loop that makes it",
            ) from error
        if scores.size != len(typed) * max(classes, 1):
            raise TrainingError(
                f"the model must predict {f'{classes} probabilities' if classes else 'a number'} a row",
                where=type(self.model).__name__,
                detail=f"{len(typed)} rows gave an array of shape {scores.shape}",
                remedy="Mend the training loop that makes it",
            )
        return scores.reshape(len(typed), classes) if classes else scores.reshape(-1)

    def _typed(self, raw: "pd.DataFrame") -> "pl.DataFrame":
        import polars as pl

        from rayworks.data import validation

        try:
            frame = pl.from_pandas(raw.reset_index(drop=True))
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise DataError(
                "a column mixes types", detail=str(error), remedy="Give each column values of one type"
            ) from error
        typed, bad = validation.validate(frame, [_unbounded(column) for column in self.feature_set.columns], target="")
        if len(bad):
            raise DataError("a row cannot be read", where=bad[validation.REASON][0], remedy="Mend the value")
        return typed

    def importance(self) -> dict[str, float]:
        """The weight of each feature, if the model tells; else nothing."""
        if hasattr(self.model, "importance"):
            return cast(Any, self.model).importance()
        weights = getattr(self.model, "feature_importances_", None)
        names = [feature.name for feature in self.feature_set.features]
        return {} if weights is None else dict(zip(names, map(float, weights), strict=True))


def _unbounded(column: Column) -> Column:
    """What was a reason to set a row aside in training is none to refuse an answer."""
    return column.model_copy(update={"required": False, "minimum": None, "maximum": None, "allowed": None})


def read(folder: Path) -> TabularModel:
    """The model in the artifact folder of an MLflow model."""
    from rayworks.models.xgboost import XGBoostModel

    feature_set = FeatureSet.model_validate_json((folder / "feature_set.json").read_bytes())
    target = Target.model_validate_json((folder / "target.json").read_bytes())
    if (folder / "predictor.pkl").exists():
        import cloudpickle

        model = cast(Model, cloudpickle.loads((folder / "predictor.pkl").read_bytes()))
    else:
        model = XGBoostModel.load(folder / "xgboost")
    return TabularModel(feature_set, target, model)


def _write(model: Model, dataset: Dataset, folder: Path) -> None:
    from rayworks.models.xgboost import XGBoostModel

    folder.mkdir(parents=True)
    (folder / "feature_set.json").write_text(dataset.feature_set.model_dump_json(indent=1))
    (folder / "target.json").write_text(dataset.target.model_dump_json(indent=1))
    if isinstance(model, XGBoostModel):
        model.save(folder / "xgboost")
    else:
        import cloudpickle

        (folder / "predictor.pkl").write_bytes(cloudpickle.dumps(model))


def save(model: Model, uri: str, *, dataset: Dataset, metadata: dict[str, str]) -> None:
    """Keep ``model`` as an MLflow model folder at ``uri``.

    Args:
        model: What a loop returned.
        dataset: What it was trained on: gives the feature declaration, the signature and the input example.
        metadata: Kept in the ``MLmodel`` file.

    Raises:
        StorageError: The folder cannot be written.
    """
    import mlflow.pyfunc
    from pyarrow import fs

    prepare_mlflow()
    example = example_rows(dataset)
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        _write(model, dataset, Path(name) / ARTIFACT)
        answer = TabularModel(dataset.feature_set, dataset.target, model).predict(example)
        mlflow.pyfunc.save_model(
            path=str(Path(name) / "model"),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={ARTIFACT: str(Path(name) / ARTIFACT)},
            signature=signature(dataset, answer),
            input_example=example,
            pip_requirements=[f"rayworks=={__version__}"],  # brings the rest; MLflow's own inference takes a minute
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


def prepare_mlflow() -> None:
    """Keep MLflow from drawing progress bars into logs, from warning of what is meant, and from retrying for minutes."""
    import warnings

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault(
        "MLFLOW_UV_AUTO_DETECT", "false"
    )  # the lock file of whatever project lies in the working directory
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")


def example_rows(dataset: Dataset) -> "pd.DataFrame":
    """A few raw rows of the test split."""
    from rayworks.data import split_rows

    names = [column.name for column in dataset.feature_set.columns]
    return next(split_rows.frames(dataset, "test", names)).head(EXAMPLE_ROWS).to_pandas()


def signature(dataset: Dataset, answer: "pd.DataFrame") -> Any:
    """MLflow's declaration of the input and output columns.

    Whole numbers that are never missing are ``long``; pandas has the others as floats.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    missing = {s.name for part in dataset.splits for s in part.statistics if s.missing}
    types = {
        "integer": DataType.long,
        "float": DataType.double,
        "string": DataType.string,
        "boolean": DataType.boolean,
        "timestamp": DataType.datetime,
    }
    inputs = [
        ColSpec(
            DataType.double if c.dtype == "integer" and c.name in missing else types[c.dtype],
            c.name,
            required=c.required,
        )
        for c in dataset.feature_set.columns
    ]
    label = {"f": DataType.double, "i": DataType.long, "b": DataType.boolean}.get(
        answer["prediction"].dtype.kind, DataType.string
    )
    outputs = [ColSpec(label, "prediction"), *(ColSpec(DataType.double, str(name)) for name in answer.columns[1:])]
    return ModelSignature(Schema(cast(Any, inputs)), Schema(cast(Any, outputs)))


def load(uri: str, *, tracking_uri: str | None = None) -> TabularModel:
    """The model at ``uri``: a folder, or ``models:/name/version`` or ``models:/name@alias`` of the registry.

    Raises:
        RegistryError: It is not there, or cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        try:
            folder = fetch(uri, Path(name), tracking_uri=tracking_uri) / "artifacts" / ARTIFACT
            if function := FeatureSet.model_validate_json((folder / "feature_set.json").read_bytes()).function:
                import_path.load(function)
            return read(folder)
        except RegistryError:
            raise
        except Exception as error:  # MLflow, file systems and pickles each have errors of their own
            raise RegistryError(
                "the model cannot be loaded",
                where=uri,
                detail=f"{type(error).__name__}: {error}",
                remedy="Check the name, and that the registry and its artifacts can be reached",
            ) from error


def fetch(uri: str, folder: Path, *, tracking_uri: str | None = None) -> Path:
    """A local folder with the MLflow model at ``uri``; what must be copied is put into ``folder``."""
    from pyarrow import fs

    if uri.startswith("models:/"):
        import mlflow.artifacts
        from mlflow import MlflowClient

        prepare_mlflow()
        # By our own client: `download_artifacts` would ask the registry that is set for the whole process.
        client = MlflowClient(tracking_uri, tracking_uri)
        name, _, rest = uri.removeprefix("models:/").partition("@" if "@" in uri else "/")
        version = client.get_model_version_by_alias(name, rest).version if "@" in uri else rest
        uri = client.get_model_version_download_uri(name, str(version))
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=tracking_uri))
    files, path = storage.filesystem(uri)
    if isinstance(files, fs.LocalFileSystem):
        return Path(path)
    fs.copy_files(path, str(folder), source_filesystem=files)
    return folder
