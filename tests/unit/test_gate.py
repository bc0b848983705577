"""The promotion gate. No Ray, no registry: records in, checks out."""

import math

import pytest

from rayworks.evaluation import gate
from rayworks.metrics import METRICS
from rayworks.params import PromoteOptions
from rayworks.records import Evaluation, Interval, Metrics, ServeCheck, SliceMetrics

OPTIONS = PromoteOptions(margin=0.01, slice_tolerance=0.05)


def measured(value: float, metric: str = "rmse") -> Metrics:
    return Metrics(rows=1000, values={metric: value})


def interval(candidate: float, rival: float, metric: str, noise: float) -> Interval:
    """What other rows may show, if the metric varies by ``noise`` from rows to rows."""
    improvement = METRICS[metric].improvement(candidate, rival)
    return Interval(low=improvement - noise, high=improvement + noise, confidence=0.95)


def evaluation(
    candidate: float,
    champion: float | None,
    baseline: float = 40.0,
    slices: tuple[SliceMetrics, ...] = (),
    error: str = "",
    metric: str = "rmse",
    noise: float = 0.001,
) -> Evaluation:
    return Evaluation(
        uri="e",
        metric=metric,
        dataset_uri="d",
        candidate_uri="models:/m/2",
        champion_uri="models:/m/1" if champion else None,
        candidate=measured(candidate, metric),
        baseline=measured(baseline, metric),
        champion=measured(champion, metric) if champion is not None else None,
        champion_error=error,
        interval=interval(candidate, baseline if champion is None else champion, metric, noise),
        slices=slices,
        plots=(),
    )


def a_slice(value: str, candidate: float, champion: float, metric: str = "rmse", noise: float = 0.001) -> SliceMetrics:
    return SliceMetrics(
        column="origin",
        value=value,
        candidate=measured(candidate, metric),
        baseline=measured(40, metric),
        champion=measured(champion, metric),
        interval=interval(candidate, champion, metric, noise),
    )


def passes(results) -> bool:
    return all(check.passed for check in results)


@pytest.mark.parametrize(
    ("candidate", "promoted"), [(10.0, True), (9.9, True), (11.87, True), (11.89, False), (12.0, False), (13.0, False)]
)
def test_a_candidate_must_beat_the_champion_by_the_margin(candidate: float, promoted: bool):
    assert passes(gate.checks(evaluation(candidate, champion=12.0), None, OPTIONS)) is promoted


def test_a_gain_that_may_be_chance_does_not_promote():
    results = gate.checks(evaluation(10.0, champion=12.0, noise=2.1), None, OPTIONS)
    assert not passes(results)
    assert "10 is 16.7% better than the champion's 12, on other rows 0.8% worse to 34.2% better" in gate.reason(results)
    assert passes(gate.checks(evaluation(10.0, champion=12.0, noise=1.9), None, OPTIONS))


def test_a_gain_of_which_nothing_is_known_does_not_promote():
    unknown = evaluation(10.0, champion=12.0).model_copy(update={"interval": None})
    assert not passes(gate.checks(unknown, None, OPTIONS))
    assert "too few rows, times or keys tell how much of it is chance" in gate.reason(
        gate.checks(unknown, None, OPTIONS)
    )


def test_few_rows_do_not_promote_and_a_decision_names_their_number():
    few = evaluation(10.0, champion=12.0).model_copy(update={"candidate": Metrics(rows=29, values={"rmse": 10.0})})
    assert "compared on 29 hold-out rows (needed: 30)" in gate.reason(gate.checks(few, None, OPTIONS))
    assert not passes(gate.checks(few, None, OPTIONS))
    assert "compared on 1,000 hold-out rows" in gate.reason(gate.checks(evaluation(10, champion=12.0), None, OPTIONS))


def test_the_first_model_is_compared_with_the_baseline():
    assert passes(gate.checks(evaluation(30, champion=None), None, OPTIONS))
    results = gate.checks(evaluation(41, champion=None), None, OPTIONS)
    assert not passes(results)
    assert "baseline" in gate.reason(results)


def test_a_candidate_worse_than_the_baseline_is_refused_even_if_the_champion_is_worse_still():
    assert not passes(gate.checks(evaluation(45, champion=50.0), None, OPTIONS))


def test_one_worse_slice_refuses_a_candidate_that_is_better_overall():
    slices = (a_slice("JFK", 10, 12), a_slice("LGA", 13, 12))
    results = gate.checks(evaluation(10, champion=12.0, slices=slices), None, OPTIONS)
    assert not passes(results)
    assert "origin = LGA" in gate.reason(results)


def test_a_slice_within_the_tolerance_is_accepted():
    assert passes(gate.checks(evaluation(10, champion=12.0, slices=(a_slice("LGA", 12.5, 12),)), None, OPTIONS))


def test_a_slice_that_may_be_worse_by_chance_is_accepted():
    noisy = (a_slice("LGA", 13, 12, noise=1.1),)
    assert passes(gate.checks(evaluation(10, champion=12.0, slices=noisy), None, OPTIONS))


def test_a_candidate_that_cannot_be_served_is_refused_with_the_finding():
    check = ServeCheck(
        uri="c",
        model_uri="m",
        passed=False,
        rows=0,
        largest_difference=0,
        milliseconds_per_request=0,
        findings=("no answer",),
    )
    results = gate.checks(evaluation(10, champion=12.0), check, OPTIONS)
    assert not passes(results)
    assert "no answer" in gate.reason(results)


def test_a_champion_that_cannot_be_scored_is_reported_and_the_baseline_is_the_rival():
    results = gate.checks(evaluation(10, champion=None, error="it is gone"), None, OPTIONS)
    assert passes(results)
    assert "it is gone" in gate.reason(results)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_never_promotes(value: float):
    assert not passes(gate.checks(evaluation(value, champion=12.0), None, OPTIONS))


def test_a_perfect_champion_is_not_replaced():
    assert not passes(gate.checks(evaluation(0.0, champion=0.0), None, OPTIONS))


@pytest.mark.parametrize(
    ("candidate", "promoted"), [(0.95, True), (0.91, True), (0.905, False), (0.9, False), (0.8, False)]
)
def test_a_candidate_must_be_higher_where_higher_is_better(candidate: float, promoted: bool):
    judged = evaluation(candidate, champion=0.9, baseline=0.5, metric="roc_auc")
    assert passes(gate.checks(judged, None, OPTIONS)) is promoted


def test_a_candidate_below_the_baseline_is_refused_where_higher_is_better():
    assert not passes(gate.checks(evaluation(0.45, champion=0.4, baseline=0.5, metric="roc_auc"), None, OPTIONS))
    assert not passes(gate.checks(evaluation(0.45, champion=None, baseline=0.5, metric="roc_auc"), None, OPTIONS))


def test_the_worst_slice_is_the_lowest_where_higher_is_better():
    slices = (a_slice("JFK", 0.95, 0.9, "roc_auc"), a_slice("LGA", 0.8, 0.9, "roc_auc"))
    judged = evaluation(0.95, champion=0.9, baseline=0.5, slices=slices, metric="roc_auc")
    results = gate.checks(judged, None, OPTIONS)
    assert not passes(results)
    assert "origin = LGA: roc_auc 0.8 is 11.1% worse than the champion's 0.9" in gate.reason(results)


def test_a_slice_where_the_metric_is_not_defined_is_not_compared():
    part = a_slice("LGA", 0.8, 0.9, "log_loss")
    judged = evaluation(0.95, champion=0.9, baseline=0.5, slices=(part,), metric="roc_auc")
    assert passes(gate.checks(judged, None, OPTIONS))


def test_a_candidate_beats_a_baseline_of_zero_where_higher_is_better():
    results = gate.checks(evaluation(0.6, champion=None, baseline=0.0, metric="f1"), None, OPTIONS)
    assert passes(results)
    assert "f1 0.6 is better than the baseline's 0" in gate.reason(results)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_never_promotes_where_higher_is_better(value: float):
    assert not passes(gate.checks(evaluation(value, champion=0.9, baseline=0.5, metric="roc_auc"), None, OPTIONS))
