"""What a model of somebody's own may answer."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.errors import TrainingError
from rayworks.models.tabular import TabularModel
from rayworks.records import Column, Feature, FeatureSet, Target

FEATURES = FeatureSet(
    columns=(Column(name="x", kind="numeric", dtype="float"),),
    features=(Feature(name="x", kind="numeric", source="x"),),
)
AMOUNT, CLASSES = (
    Target(name="y", problem="regression"),
    Target(name="y", problem="multiclass", classes=("a", "b", "c")),
)


class Answering:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, rows: pd.DataFrame) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    predict_proba = predict


def asked(target: Target, answer: Any) -> pd.DataFrame:
    return TabularModel(FEATURES, target, Answering(answer)).predict(pd.DataFrame({"x": [1.0, 2.0]}))


@pytest.mark.parametrize(
    "answer", [[1.0, 2.0], [[1.0], [2.0]], np.array([1, 2])], ids=["a list", "a column", "whole numbers"]
)
def test_amounts_may_come_in_any_form_that_has_a_number_a_row(answer: Any):
    assert asked(AMOUNT, answer)["prediction"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("target", "answer", "words"),
    [
        (AMOUNT, [1.0], r"must predict a number a row: Answering \(2 rows gave an array of shape \(1,\)\)"),
        (
            CLASSES,
            [[0.5, 0.5], [0.5, 0.5]],
            r"must predict 3 probabilities a row: .*2 rows gave an array of shape \(2, 2\)",
        ),
        (AMOUNT, ["cheap", "dear"], "failed to predict: Answering .*ValueError.*Mend the training loop"),
        (AMOUNT, KeyError("x"), "failed to predict: Answering .*KeyError: 'x'"),
        (AMOUNT, None, "must predict a number a row"),
    ],
    ids=["too few", "too few classes", "text", "an error", "nothing"],
)
def test_an_answer_that_is_no_prediction_of_the_rows_is_refused_in_a_sentence(target: Target, answer: Any, words: str):
    with pytest.raises(TrainingError, match=words):
        asked(target, answer)
