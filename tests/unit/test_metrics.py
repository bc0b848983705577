import math

import made_up_run
import numpy as np
import pytest
from pydantic import ValidationError

from rayworks import metrics
from rayworks.errors import ParameterError
from rayworks.evaluation import baseline, evaluation
from rayworks.params import EvaluateOptions
from rayworks.records import Metrics, Target

AMOUNT = Target(name="y", problem="regression")
BINARY = Target(name="y", problem="binary", classes=("no", "yes"))
THREE = Target(name="y", problem="multiclass", classes=("a", "b", "c"))


def test_metrics_of_a_regression_match_the_textbook():
    values = metrics.compute(AMOUNT, np.array([0.0, 0.0, 4.0, 4.0]), np.array([0.0, 1.0, 4.0, 1.0]))
    assert values == pytest.approx({"rmse": 2.5**0.5, "mae": 1.0, "median_absolute_error": 0.5, "r2": 1 - 10 / 16})


def test_metrics_of_two_classes_match_the_textbook():
    predicted = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9]])
    values = metrics.compute(BINARY, np.array([0, 0, 1, 1]), predicted)
    assert values["accuracy"] == 0.75
    assert values["error_rate"] == 0.25
    assert values["roc_auc"] == 1.0
    assert values["brier"] == pytest.approx((0.04 + 0.36 + 0.09 + 0.01) / 4)
    assert values["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.9]).mean())


def test_a_slice_with_one_class_has_every_metric_except_roc_auc():
    values = metrics.compute(BINARY, np.array([1, 1]), np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert set(values) == {"log_loss", "error_rate", "accuracy", "brier", "f1"}


def test_a_class_without_rows_in_a_slice_does_not_change_the_metrics():
    predicted = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
    values = metrics.compute(THREE, np.array([0, 1]), predicted)
    assert values["log_loss"] == pytest.approx(np.log(2))
    assert values["macro_f1"] == 1.0


@pytest.mark.parametrize("target", [AMOUNT, BINARY, THREE])
def test_no_rows_have_no_metrics(target: Target):
    assert metrics.compute(target, np.empty(0), np.empty((0, 3))) == {}


def test_a_single_row_has_no_r2():
    assert "r2" not in metrics.compute(AMOUNT, np.array([1.0]), np.array([2.0]))


def test_auto_is_the_default_metric_of_the_problem():
    problems = ("regression", "binary", "multiclass")
    assert [metrics.deciding_metric(problem, "auto") for problem in problems] == ["rmse", "log_loss", "log_loss"]


def test_a_metric_that_does_not_fit_the_problem_is_refused_with_those_that_fit():
    with pytest.raises(ParameterError, match=r"does not measure a regression model.*rmse, mae"):
        metrics.deciding_metric("regression", "log_loss")


def test_the_baseline_of_a_regression_is_the_mean_of_the_training_rows():
    assert baseline.predictions(made_up_run.dataset(), 3).tolist() == [3.5, 3.5, 3.5]


def test_the_baseline_of_a_classification_is_the_class_shares_of_the_training_rows():
    predicted = baseline.predictions(made_up_run.dataset("multiclass"), 2)
    assert predicted.shape == (2, 3)
    assert predicted[0] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.003)


def test_a_class_without_training_rows_is_still_possible():
    dataset = made_up_run.dataset("binary").model_copy(update={"class_counts": {"no": 10}})
    assert (baseline.predictions(dataset, 1) > 0).all()


@pytest.mark.parametrize(("name", "worse", "better"), [("rmse", 2.0, 1.5), ("roc_auc", 0.8, 0.9), ("r2", -0.2, 0.1)])
def test_a_metric_knows_its_direction(name: str, worse: float, better: float):
    metric = metrics.METRICS[name]
    assert metric.is_better(better, worse)
    assert not metric.is_better(worse, better)
    assert not metric.is_better(better, better)
    assert metric.is_better(worse, metric.worst)
    assert metric.best([worse, better, worse], float) == better
    assert metric.gain(better, worse) > 0 > metric.gain(worse, better)


@pytest.mark.parametrize(
    ("name", "candidate", "rival", "gain"),
    [
        ("rmse", 9.0, 12.0, 0.25),
        ("rmse", 15.0, 12.0, -0.25),
        ("rmse", 0.0, 0.0, 0.0),
        ("rmse", 1.0, 0.0, -math.inf),
        ("roc_auc", 0.9, 0.8, 0.125),
        ("roc_auc", 0.7, 0.8, -0.125),
        ("f1", 0.3, 0.0, math.inf),  # a baseline that never predicts the rarer class
        ("f1", 0.0, 0.0, 0.0),
    ],
)
def test_the_gain_is_the_share_of_the_rivals_value_by_which_a_candidate_is_better(
    name: str, candidate: float, rival: float, gain: float
):
    assert metrics.METRICS[name].gain(candidate, rival) == pytest.approx(gain)


@pytest.mark.parametrize("name", ["rmse", "roc_auc"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_there_is_no_gain_where_a_value_is_not_finite(name: str, value: float):
    assert math.isnan(metrics.METRICS[name].gain(value, 0.5))
    assert math.isnan(metrics.METRICS[name].gain(0.5, value))


def test_every_default_may_decide_on_its_problem():
    for problem, name in metrics.DEFAULT.items():
        assert metrics.deciding_metric(problem, name) == name


def test_a_metric_whose_shares_mean_nothing_cannot_decide():
    with pytest.raises(ValidationError, match="metric"):
        EvaluateOptions(metric="r2")
    with pytest.raises(ParameterError, match="r2"):
        metrics.deciding_metric("regression", "r2")


@pytest.mark.parametrize("target", [AMOUNT, BINARY, THREE])
def test_the_metrics_computed_are_those_of_the_problem(target: Target):
    actual = np.array([0, 1, 0, 1])
    predicted = actual.astype(float) if target.problem == "regression" else np.eye(len(target.classes))[actual]
    applicable = {name for name, metric in metrics.METRICS.items() if target.problem in metric.problems}
    assert set(metrics.compute(target, actual, predicted)) == applicable


def test_a_deciding_metric_that_the_hold_out_rows_do_not_define_is_refused():
    values = metrics.compute(BINARY, np.array([1, 1]), np.array([[0.5, 0.5], [0.25, 0.75]]))
    evaluation.require_defined("accuracy", Metrics(rows=2, values=values))
    with pytest.raises(ParameterError, match=r"metric roc_auc is not defined on the hold-out rows.*log_loss"):
        evaluation.require_defined("roc_auc", Metrics(rows=2, values=values))
