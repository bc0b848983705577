"""The interval of an improvement: it holds for other rows, as often as it says. No Ray."""

from dataclasses import replace

import numpy as np
import pytest

from rayworks.evaluation import comparison
from rayworks.metrics import METRICS, Metric
from rayworks.records import Interval

TRIES, ROWS = 200, 600


def interval(metric: str, actual, candidate, rival, groups=None) -> Interval | None:
    groups = comparison.groups_at_random(len(actual)) if groups is None else groups
    return comparison.interval(METRICS[metric], actual, candidate, rival, groups, confidence=0.95)


def better_by_chance(metric: str, truly_better: float) -> float:
    """Return how often two models are told apart, of which the second has errors that are larger by a share."""
    random, count = np.random.default_rng(0), 0
    for _ in range(TRIES):
        actual = random.normal(size=ROWS)
        error, other = random.normal(size=(2, ROWS))
        candidate, rival = actual + error, actual + (1 + truly_better) * (0.9 * error + 0.436 * other)
        found = interval(metric, actual, candidate, rival)
        count += found is not None and found.low > 0
    return count / TRIES


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_a_model_that_is_no_better_rarely_looks_better(metric: str):
    assert better_by_chance(metric, 0.0) <= 0.05


def test_a_model_that_is_better_is_found():
    assert better_by_chance("rmse", 0.1) >= 0.9


def test_two_equal_models_differ_by_nothing():
    actual, predicted = np.arange(100.0), np.arange(100.0) + 1
    found = interval("rmse", actual, predicted, predicted)
    assert found == Interval(low=0.0, high=0.0, confidence=0.95)


def test_any_metric_of_probabilities_has_an_interval():
    random = np.random.default_rng(0)
    actual = random.integers(0, 2, 500)
    good, poor = (np.clip(actual * share + random.random(500) * (1 - share), 0.01, 0.99) for share in (0.5, 0.1))
    both = [np.column_stack([1 - p, p]) for p in (good, poor)]
    for metric in ("log_loss", "roc_auc", "f1", "accuracy"):
        found = interval(metric, actual, *both)
        assert found is not None
        assert 0 < found.low < found.high


def test_neighbours_that_have_their_errors_in_common_make_the_interval_wider():
    random = np.random.default_rng(0)
    days = np.repeat(np.arange(60), 50)
    shift = random.normal(size=60)[days]
    actual = random.normal(size=3000)
    candidate, rival = actual + shift, actual + random.normal(size=3000)
    order = random.permutation(3000)
    by_day = interval("rmse", actual[order], candidate[order], rival[order], comparison.groups_in_order(days[order]))
    at_random = interval("rmse", actual, candidate, rival)
    assert by_day is not None
    assert at_random is not None
    assert by_day.high - by_day.low > 2 * (at_random.high - at_random.low)


@pytest.mark.parametrize("times", [4, 6, 100])
def test_a_model_that_is_no_better_rarely_looks_better_where_the_rows_of_a_time_have_their_errors_in_common(times: int):
    random, tries, count = np.random.default_rng(0), 1000, 0
    time = np.arange(times).repeat(600 // times)
    groups = comparison.groups_in_order(time)
    for _ in range(tries):
        actual, shifts = random.normal(size=len(time)), random.normal(size=(2, times))[:, time]
        candidate, rival = actual + shifts + random.normal(size=(2, len(time)))
        found = interval("rmse", actual, candidate, rival, groups)
        assert found is not None
        count += found.low > 0
    assert 0.005 <= count / tries <= 0.04  # nominal: 0.025


@pytest.mark.parametrize(("order", "groups"), [([5, 5, 5], 1), ([7, 5, 7, 6], 3), (range(9), 9), (range(600), 30)])
def test_rows_of_a_time_are_in_one_group(order: list[int], groups: int):
    found = comparison.groups_in_order(np.array(order))
    assert len(set(found)) == groups
    assert all(len(set(found[np.array(order) == time])) == 1 for time in order)
    assert list(found[np.argsort(order)]) == sorted(found)


def test_rows_of_a_single_time_have_no_interval():
    actual, groups = np.arange(100.0), comparison.groups_in_order(np.full(100, 5))
    assert interval("rmse", actual, actual + 1, actual + 2, groups) is None
    before, now = (comparison.Scored(actual, actual + 1, each) for each in (comparison.groups_at_random(100), groups))
    assert comparison.change(METRICS["rmse"], before, now, confidence=0.95) is None


def test_rows_of_a_key_are_in_one_group():
    keys = np.array(["a", "b", "a", "c", "b"])
    groups = comparison.groups_by_key(keys)
    assert groups[0] == groups[2]
    assert groups[1] == groups[4]
    assert len(set(groups)) == 3


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_have_no_interval(rows: int):
    assert interval("rmse", np.zeros(rows), np.ones(rows), np.ones(rows)) is None


def test_a_metric_that_is_not_defined_on_some_rows_has_no_interval():
    actual, groups = np.array([0, 0, 0, 1]), np.arange(4)
    predicted = np.column_stack([1 - np.linspace(0.1, 0.9, 4), np.linspace(0.1, 0.9, 4)])
    assert interval("roc_auc", actual, predicted, predicted, groups) is None
    assert interval("log_loss", actual, predicted, predicted, groups) is not None


@pytest.mark.parametrize("metric", [metric for metric in METRICS.values() if metric.row_losses], ids=lambda m: m.name)
def test_the_short_way_of_a_mean_gives_what_the_metric_itself_gives(metric: Metric):
    random, rows = np.random.default_rng(0), 200
    if metric.problems == ("regression",):
        actual, candidate, rival = random.normal(size=(3, rows))
    else:
        actual = random.integers(0, 2, rows)
        candidate, rival = (np.column_stack([1 - p, p]) for p in random.random((2, rows)))
        candidate[0] = [1.0, 0.0]  # a loss that scikit-learn bounds
    groups = comparison.groups_at_random(rows)
    short = comparison.improvements(metric, actual, candidate, rival, groups)
    long = comparison.improvements(replace(metric, row_losses=None), actual, candidate, rival, groups)
    np.testing.assert_allclose(short, long, rtol=1e-9)
