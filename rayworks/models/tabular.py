"""A trained model together with what it takes to predict from raw rows: what is evaluated, registered and served."""

from typing import TYPE_CHECKING

from rayworks.errors import DataError
from rayworks.models.contract import ExplainedModel, Model
from rayworks.models.predictions import predictions
from rayworks.records import Column, FeatureSet, Target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl


class TabularModel:
    """Raw rows in, predictions out."""

    def __init__(self, feature_set: FeatureSet, target: Target, model: Model) -> None:
        self.feature_set, self.target, self.model = feature_set, target, model

    def predict(self, raw: "pd.DataFrame") -> "pd.DataFrame":
        """Predict from raw rows, one prediction for each row.

        Args:
            raw: Rows with the columns of ``feature_set``. Missing columns count as null, others are ignored.

        Returns:
            ``prediction`` (the amount or the label) and, for classification, ``probability_<class>`` for each class;
            with the index of ``raw``.

        Raises:
            DataError: A value cannot be converted to the type of its column.
            TrainingError: The model failed, or returned something other than a prediction for each row.
        """
        import pandas as pd

        scores = self.score(self._typed(raw))
        if self.target.problem == "regression":
            return pd.DataFrame({"prediction": scores}, index=raw.index)
        labels = [self.target.classes[number] for number in scores.argmax(axis=1)]
        probabilities = {f"probability_{label}": scores[:, i] for i, label in enumerate(self.target.classes)}
        return pd.DataFrame({"prediction": labels, **probabilities}, index=raw.index)

    def score(self, typed: "pl.DataFrame") -> "np.ndarray":
        """Return amounts (rows), or probabilities (rows by classes), for typed rows.

        Raises:
            TrainingError: The model failed, or returned something other than a prediction for each row.
        """
        import numpy as np

        from rayworks.data import features

        classes = len(self.target.classes)
        if typed.is_empty():
            return np.empty((0, classes) if classes else 0)
        encoded = features.encode(features.transform(typed, self.feature_set), self.feature_set.features)
        return predictions(self.model, encoded, classes=classes)

    def _typed(self, raw: "pd.DataFrame") -> "pl.DataFrame":
        """Raw rows with the types of their columns."""
        import polars as pl

        from rayworks.data import validation

        try:
            frame = validation.without_categories(pl.from_pandas(raw.reset_index(drop=True)))
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise DataError(
                "a column mixes types", detail=str(error), remedy="Give each column values of one type"
            ) from error
        columns = [_without_rules(column) for column in self.feature_set.columns]
        typed, rejected = validation.validate(frame, columns, target="")
        if len(rejected):
            raise DataError("a row cannot be read", where=rejected[validation.REASON][0], remedy="Fix the value")
        return typed

    def importance(self) -> dict[str, float]:
        """Return the weight of each feature by name; empty if the model does not provide it."""
        if isinstance(self.model, ExplainedModel):
            return self.model.importance()
        weights = getattr(self.model, "feature_importances_", None)
        names = [feature.name for feature in self.feature_set.features]
        return {} if weights is None else dict(zip(names, map(float, weights), strict=True))


def _without_rules(column: Column) -> Column:
    """The column without the rules that reject rows in training: they are no reason to refuse a prediction."""
    return column.model_copy(update={"required": False, "minimum": None, "maximum": None, "allowed": None})
