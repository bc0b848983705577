"""Folds: no row is validated by a model that has seen it, its key or its future. No Ray."""

import itertools

import numpy as np
import pytest

from rayworks.data import folds


def validated(fold: folds.Fold) -> np.ndarray:
    return np.concatenate(fold.validation)


def test_by_time_a_fold_learns_from_older_rows_only():
    times = np.random.default_rng(0).permutation(5000)
    parts = folds.of("time", times, 5000, 0.15)
    assert len(parts) == 3
    for fold in parts:
        assert times[fold.train].max() < times[validated(fold)].min()
        assert len(validated(fold)) == 750
    newest, older, _ = parts
    assert times[validated(newest)].max() == 4999
    assert times[validated(older)].max() < times[validated(newest)].min()


@pytest.mark.parametrize(("rows", "count"), [(300, 12), (5000, 3), (50_000, 2)])
def test_few_rows_have_more_folds(rows: int, count: int):
    parts = folds.of("random", None, rows, 1 / 6)
    assert len(parts) == count
    for fold in parts:
        assert sorted([*fold.train, *validated(fold)]) == list(range(rows))
        assert len(validated(fold)) == pytest.approx(rows / 6, abs=1)


def test_rows_of_a_key_stay_together():
    keys = np.random.default_rng(0).integers(0, 100, 2000).astype(str)
    for fold in folds.of("hash", keys, 2000, 1 / 6):
        assert not set(keys[fold.train]) & set(keys[validated(fold)])


def test_the_same_rows_have_the_same_folds():
    for first, second in zip(*(folds.of("random", None, 500, 0.2) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(first.train, second.train)
        np.testing.assert_array_equal(validated(first), validated(second))


def test_blocks_by_time_follow_each_other():
    times = np.random.default_rng(0).permutation(20_000)
    blocks = folds.of("time", times, 20_000, 0.15)[0].validation
    assert len(blocks) == 5
    ranges = [(times[block].min(), times[block].max()) for block in blocks]
    assert ranges == sorted(ranges)
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(ranges))


@pytest.mark.parametrize("rows", [4, 12])
def test_a_handful_of_rows_still_has_folds(rows: int):
    for method, values in (("time", np.arange(rows)), ("random", None), ("hash", np.arange(rows))):
        parts = folds.of(method, values, rows, 1 / 6)
        assert parts
        assert all(len(fold.train) and len(validated(fold)) for fold in parts)
