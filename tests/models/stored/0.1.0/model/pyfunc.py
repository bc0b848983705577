"""The code of every MLflow model that rayworks stores (MLflow's "models from code").

MLflow copies this file into the model and runs the copy when it loads the model. A copy of this version must work with
every later version of rayworks, so it imports a single name: ``rayworks.models.stored.read``, which must not move.
"""
# pyright: basic, reportIncompatibleMethodOverride=false, reportPrivateImportUsage=false

from pathlib import Path

import mlflow.models  # noqa: TID253 - this file is only ever run by MLflow
import mlflow.pyfunc  # noqa: TID253
import pandas as pd

from rayworks.models import stored


class RayworksModel(mlflow.pyfunc.PythonModel):
    """Predict from raw rows, for programs that load the model through MLflow."""

    def load_context(self, context):
        (folder,) = context.artifacts.values()
        self.model = stored.read(Path(folder))

    # MLflow warns if there is no type hint, and derives a signature from any but this one: the model has a signature.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        return self.model.predict(model_input)


mlflow.models.set_model(RayworksModel())
