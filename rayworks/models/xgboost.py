"""Gradient-boosted trees, stored in XGBoost's own format.

Stored models name ``rayworks.models.xgboost:XGBoostModel``: it must not move.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rayworks.records import Problem

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xgboost as xgb

CATEGORICAL, NUMERIC = "c", "q"  # XGBoost's names


class XGBoostModel:
    """Trained trees: a ``StoredModel`` and an ``ExplainedModel``.

    Args:
        booster: The trees. They know columns by position (``f0``, ``f1``, …), so that features may have any name.
        problem: What they predict.
        names: The features, in the order of the columns.
    """

    def __init__(self, booster: "xgb.Booster", problem: Problem, names: list[str]) -> None:
        self.booster, self.problem, self.names = booster, problem, names

    def predict(self, features: "pd.DataFrame") -> "np.ndarray":
        """Return amounts, or class numbers."""
        if self.problem == "regression":
            return self._raw(features)
        return self.predict_proba(features).argmax(axis=1)

    def predict_proba(self, features: "pd.DataFrame") -> "np.ndarray":
        """Return probabilities, rows by classes."""
        import numpy as np

        raw = self._raw(features)
        # XGBoost computes in single precision: its probabilities do not quite add up to one.
        return np.column_stack([1 - raw, raw]) if self.problem == "binary" else raw / raw.sum(axis=1, keepdims=True)

    def _raw(self, features: "pd.DataFrame") -> "np.ndarray":
        return self.booster.inplace_predict(numbers(features)).astype("float64")

    def importance(self) -> dict[str, float]:
        """Return the total gain of each feature that the trees use."""
        gains = self.booster.get_score(importance_type="total_gain")
        return {self.names[int(key[1:])]: float(gain) for key, gain in gains.items()}  # type: ignore[arg-type]

    def save(self, folder: Path) -> None:
        """Write ``booster.ubj`` and ``booster.json`` into ``folder``."""
        self.booster.save_model(folder / "booster.ubj")
        (folder / "booster.json").write_text(json.dumps({"problem": self.problem, "names": self.names}))

    @classmethod
    def load(cls, folder: Path) -> "XGBoostModel":
        """Return the model that ``save`` wrote into ``folder``."""
        import xgboost as xgb

        description = json.loads((folder / "booster.json").read_text())
        return cls(xgb.Booster(model_file=folder / "booster.ubj"), description["problem"], description["names"])


def numbers(features: "pd.DataFrame") -> "np.ndarray":
    """Return features as XGBoost gets them, in training and in predicting: a category is its number.

    XGBoost sees no names. In those of columns it forbids ``[``, ``]`` and ``<``. By those of categories it would look
    up each number again when it predicts, as on validation rows, and take some that are not ASCII for the same (3.1 and
    3.2, https://github.com/dmlc/xgboost/pull/12360).
    """
    import numpy as np

    table = np.empty(features.shape, dtype="float32")  # XGBoost's own precision
    for index, (column, kind) in enumerate(zip(features, kinds(features), strict=True)):
        values = features[column].cat.codes if kind == CATEGORICAL else features[column]
        table[:, index] = np.where(values < 0, np.nan, values) if kind == CATEGORICAL else values
    return table


def kinds(features: "pd.DataFrame") -> list[str]:
    """Return XGBoost's type of each column of :func:`numbers`."""
    return [CATEGORICAL if dtype == "category" else NUMERIC for dtype in features.dtypes]
