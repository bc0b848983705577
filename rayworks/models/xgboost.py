"""Trained gradient-boosted trees, stored in XGBoost's own format."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rayworks.records import Problem

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xgboost as xgb


class XGBoostModel:
    """Trained trees. Columns are told by their position, so that any name may be used."""

    def __init__(self, booster: "xgb.Booster", problem: Problem, names: list[str]) -> None:
        self.booster, self.problem, self.names = booster, problem, names

    def predict(self, features: "pd.DataFrame") -> "np.ndarray":
        """Amounts, or class numbers."""
        if self.problem == "regression":
            return self._raw(features)
        return self.predict_proba(features).argmax(axis=1)

    def predict_proba(self, features: "pd.DataFrame") -> "np.ndarray":
        """Probabilities, rows by classes."""
        import numpy as np

        raw = self._raw(features)
        # XGBoost computes in single precision, in which probabilities do not quite add up to one.
        return np.column_stack([1 - raw, raw]) if self.problem == "binary" else raw / raw.sum(axis=1, keepdims=True)

    def _raw(self, features: "pd.DataFrame") -> "np.ndarray":
        return self.booster.inplace_predict(positional(features)).astype("float64")

    def importance(self) -> dict[str, float]:
        """Total gain of each feature that was used."""
        gains = self.booster.get_score(importance_type="total_gain")
        return {self.names[int(key[1:])]: float(gain) for key, gain in gains.items()}  # type: ignore[arg-type]

    def save(self, folder: Path) -> None:
        """Write ``model.ubj`` and ``model.json`` into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.booster.save_model(folder / "model.ubj")
        (folder / "model.json").write_text(json.dumps({"problem": self.problem, "names": self.names}))

    @classmethod
    def load(cls, folder: Path) -> "XGBoostModel":
        """What ``save`` wrote."""
        import xgboost as xgb

        facts = json.loads((folder / "model.json").read_text())
        return cls(xgb.Booster(model_file=folder / "model.ubj"), facts["problem"], facts["names"])


def positional(features: "pd.DataFrame") -> "pd.DataFrame":
    """XGBoost forbids ``[``, ``]`` and ``<`` in names."""
    return features.set_axis([f"f{i}" for i in range(features.shape[1])], axis=1)
