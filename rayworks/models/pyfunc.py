"""The code of every MLflow model that rayworks keeps ("models from code"): MLflow runs this file when it loads one."""
# pyright: basic, reportIncompatibleMethodOverride=false, reportPrivateImportUsage=false

import warnings
from pathlib import Path

import mlflow.models  # noqa: TID253 - this file is only ever run by MLflow
import mlflow.pyfunc  # noqa: TID253

from rayworks.models import tabular

warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")  # it has none on purpose


class RayworksModel(mlflow.pyfunc.PythonModel):
    """Raw rows to predictions, for whoever loads the model by MLflow."""

    def load_context(self, context):
        self.model = tabular.read(Path(context.artifacts[tabular.ARTIFACT]))

    # Without type hints: MLflow would take them for a schema, and there is a signature already.
    def predict(self, context, model_input, params=None):
        return self.model.predict(model_input)


mlflow.models.set_model(RayworksModel())
