"""What a user's own model may return, and how it is explained."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.errors import TrainingError
from rayworks.models.tabular import TabularModel
from rayworks.records import Column, Feature, FeatureSet, Target
from tests.models.own_models import Constant, Weighted, WeightedLikeScikitLearn

FEATURES = FeatureSet(
    columns=(Column(name="x", kind="numeric", dtype="float"),),
    features=(Feature(name="x", kind="numeric", source="x"),),
)
AMOUNT, CLASSES = (
    Target(name="y", problem="regression"),
    Target(name="y", problem="multiclass", classes=("a", "b", "c")),
)


class Returning:
    """A model that returns the same object for any rows, or raises it."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def predict(self, rows: pd.DataFrame) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    predict_proba = predict


def predictions(target: Target, result: Any) -> pd.DataFrame:
    return TabularModel(FEATURES, target, Returning(result)).predict(pd.DataFrame({"x": [1.0, 2.0]}))


@pytest.mark.parametrize(
    "result", [[1.0, 2.0], [[1.0], [2.0]], np.array([1, 2])], ids=["a list", "a column", "integers"]
)
def test_amounts_may_have_any_form_with_one_number_for_each_row(result: Any):
    assert predictions(AMOUNT, result)["prediction"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("target", "result", "words"),
    [
        (AMOUNT, [1.0], r"must predict a number for each row: Returning \(2 rows gave an array of shape \(1,\)\)"),
        (
            CLASSES,
            [[0.5, 0.5], [0.5, 0.5]],
            r"must predict 3 probabilities for each row: .*2 rows gave an array of shape \(2, 2\)",
        ),
        (AMOUNT, ["cheap", "dear"], "failed to predict: Returning .*ValueError.*Fix the training loop"),
        (AMOUNT, KeyError("x"), "failed to predict: Returning .*KeyError: 'x'"),
        (AMOUNT, None, "must predict a number for each row"),
    ],
    ids=["too few", "too few classes", "text", "an error", "nothing"],
)
def test_anything_but_a_prediction_for_each_row_is_an_error_that_says_what_came(
    target: Target, result: Any, words: str
):
    with pytest.raises(TrainingError, match=words):
        predictions(target, result)


class KnowingCategories:
    """A model that predicts 1 where it knows the category."""

    def predict(self, rows: pd.DataFrame) -> Any:
        return rows["c"].notna().astype(float)


def test_categories_of_pandas_are_read_as_text():
    categories = FeatureSet(
        columns=(Column(name="c", kind="categorical", dtype="string"),),
        features=(Feature(name="c", kind="categorical", source="c", categories=("a", "b")),),
    )
    rows = pd.DataFrame({"c": pd.Categorical([" a", "b", "?", "z"])})
    predicted = TabularModel(categories, AMOUNT, KnowingCategories()).predict(rows)
    assert predicted["prediction"].to_list() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("model", "weights"),
    [(Weighted(0.7), {"x": 0.7}), (WeightedLikeScikitLearn(0.7), {"x": 0.7}), (Constant(0.7), {})],
    ids=["importance()", "feature_importances_", "neither"],
)
def test_a_model_says_what_its_features_weigh_if_it_knows(model: Any, weights: dict[str, float]):
    assert TabularModel(FEATURES, AMOUNT, model).importance() == weights
