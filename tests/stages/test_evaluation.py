"""Models that were really saved, on datasets that were really processed, scored in Ray tasks."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rayworks import storage
from rayworks.data import manifest, processing, split_rows
from rayworks.errors import ParameterError, RayworksError, RegistryError, TrainingError
from rayworks.evaluation import evaluation
from rayworks.models import tabular
from rayworks.params import EvaluateOptions, ProcessOptions, SplitOptions
from rayworks.records import Dataset, DatasetRef, Evaluation

ROWS = 3000
TRACKING = "sqlite:///no-registry-is-asked.db"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "distance": random.uniform(1, 100, ROWS).round(3),
            "city": random.choice(["Oslo", "Rome", "Bern"], ROWS, p=[0.6, 0.3, 0.1]),
            "late": random.choice([True, False], ROWS),
        }
    )
    frame["minutes"] = frame.distance * 2 + 30 * (frame.city == "Rome") + random.normal(0, 3, ROWS)
    frame["size"] = np.where(frame.distance < 30, "small", np.where(frame.distance < 60, "medium", "large"))
    return frame


def processed(table: pd.DataFrame, target: str, folder: Path) -> DatasetRef:
    table.to_parquet(folder / f"{target}.parquet")
    options = ProcessOptions(split=SplitOptions(by="random", test=0.4))
    return processing.stage(str(folder / f"{target}.parquet"), target, options, storage_uri=str(folder)).run()


@pytest.fixture(scope="module")
def amounts(ray_session, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return processed(table.drop(columns="size"), "minutes", tmp_path_factory.mktemp("amounts"))


def save(predictor: Any, dataset: DatasetRef, name: str) -> str:
    """Fit ``predictor`` on the training rows, and keep it as a model."""
    whole = manifest.load(dataset)
    features, target = split_rows.sampled(whole, "train", ROWS)
    uri = f"{dataset.uri}-{name}"
    tabular.save(predictor.fit(features, target), uri, dataset=whole, metadata={})
    return uri


def trees(kind: str = "XGBRegressor", rounds: int = 40) -> Any:
    import xgboost as xgb

    return getattr(xgb, kind)(n_estimators=rounds, max_depth=3, enable_categorical=True, tree_method="hist", n_jobs=1)


@pytest.fixture(scope="module")
def good(amounts: DatasetRef) -> str:
    return save(trees(), amounts, "good")


@pytest.fixture(scope="module")
def poor(amounts: DatasetRef) -> str:
    return save(trees(rounds=3), amounts, "poor")


def evaluate(
    candidate: str, dataset: DatasetRef, storage_uri: str, champion: str | None = None, **options: Any
) -> Evaluation:
    return evaluation.stage(
        candidate,
        dataset,
        champion_uri=champion,
        options=EvaluateOptions(**options),
        storage_uri=storage_uri,
        tracking_uri=TRACKING,
    ).run()


def test_candidate_champion_and_baseline_are_judged_on_the_same_rows(amounts, good, poor, storage_uri, table):
    found = evaluate(good, amounts, storage_uri, poor)
    test = pl.concat(split_rows.frames(manifest.load(amounts), "test", [*table.columns.drop("size")])).to_pandas()
    said = tabular.load(good).predict(test.drop(columns="minutes"))["prediction"]
    assert found.candidate.rows == len(test) == found.baseline.rows == found.champion.rows
    assert found.candidate.values["rmse"] == pytest.approx(np.sqrt(np.square(test.minutes - said).mean()))
    assert found.candidate.values["rmse"] < found.champion.values["rmse"] < found.baseline.values["rmse"]
    assert found.baseline.values["r2"] == pytest.approx(0, abs=0.02)


def test_slices_are_the_values_of_columns_with_few_of_them(amounts, good, poor, storage_uri):
    found = evaluate(good, amounts, storage_uri, poor, minimum_slice_rows=1)
    assert {(part.column, part.value) for part in found.slices} == {
        ("city", "Oslo"),
        ("city", "Rome"),
        ("city", "Bern"),
        ("late", "true"),
        ("late", "false"),
    }
    assert sum(part.candidate.rows for part in found.slices if part.column == "city") == found.candidate.rows


def test_slices_with_few_rows_are_left_out(amounts, good, storage_uri):
    found = evaluate(good, amounts, storage_uri, slices=["city"], minimum_slice_rows=200)
    assert [part.value for part in found.slices] == ["Oslo", "Rome"]


def test_a_numeric_column_is_sliced_by_quartiles(amounts, good, storage_uri):
    found = evaluate(good, amounts, storage_uri, slices=["distance"])
    rows = [part.candidate.rows for part in found.slices]
    assert len(rows) == 4
    assert max(rows) - min(rows) <= 2


def test_an_unknown_slice_column_is_refused_with_those_that_exist(amounts, good, storage_uri):
    with pytest.raises(ParameterError, match=r"town.*distance, city, late"):
        evaluate(good, amounts, storage_uri, slices=["town"])


def test_many_tasks_find_what_one_finds(amounts, good, poor, storage_uri, monkeypatch):
    one = evaluate(good, amounts, storage_uri + "1", poor)
    monkeypatch.setattr(evaluation, "ROWS_PER_TASK", 100)
    many = evaluate(good, amounts, storage_uri + "2", poor)
    assert many.model_copy(update={"uri": one.uri}) == one


def test_a_champion_that_cannot_be_loaded_is_an_error_and_not_a_weaker_rival(amounts, good, storage_uri):
    with pytest.raises(RayworksError, match="/nowhere/champion"):
        evaluate(good, amounts, storage_uri, "/nowhere/champion")


def test_a_champion_that_needs_a_column_that_the_data_lack_is_told_of(ray_session, table, amounts, good, tmp_path):
    fewer = processed(table[["distance", "minutes"]], "minutes", tmp_path)
    found = evaluate(save(trees(), fewer, "fewer"), fewer, str(tmp_path), good)
    assert found.champion is None
    assert "city, late" in found.champion_error


def test_a_champion_of_another_target_is_not_compared(ray_session, table, amounts, good, tmp_path):
    sizes = processed(table, "size", tmp_path)
    found = evaluate(save(trees("XGBClassifier"), sizes, "sizes"), sizes, str(tmp_path), good)
    assert found.champion is None
    assert "another target: minutes" in found.champion_error
    assert found.metric == "log_loss"
    assert found.candidate.values["log_loss"] < found.baseline.values["log_loss"]
    assert {plot.name for plot in found.plots} == {"calibration", "confusion", "importance"}
    confusion = next(plot for plot in found.plots if plot.name == "confusion")
    assert sum(map(sum, confusion.series.values())) == found.candidate.rows


def test_two_classes_have_a_roc_curve(ray_session, table, tmp_path):
    late = processed(table.assign(late=table.distance + 20 * (table.city == "Rome") > 60), "late", tmp_path)
    found = evaluate(save(trees("XGBClassifier"), late, "late"), late, str(tmp_path))
    assert found.candidate.values["roc_auc"] > 0.95
    assert {"calibration", "roc"} < {plot.name for plot in found.plots}


def test_a_candidate_that_is_gone_is_an_error(amounts, storage_uri):
    with pytest.raises(RegistryError, match="/nowhere/candidate"):
        evaluate("/nowhere/candidate", amounts, storage_uri)


def test_a_candidate_that_predicts_no_numbers_is_an_error_that_says_so(amounts, storage_uri):
    from sklearn.dummy import DummyRegressor

    broken = DummyRegressor(strategy="constant", constant=0.0)
    uri = f"{amounts.uri}-broken"
    whole: Dataset = manifest.load(amounts)
    features, target = split_rows.sampled(whole, "train", ROWS)
    broken.fit(features, target)
    broken.constant_ = np.array([[np.nan]])
    tabular.save(broken, uri, dataset=whole, metadata={})
    with pytest.raises(TrainingError, match="no number"):
        evaluate(uri, amounts, storage_uri)


def test_what_was_evaluated_is_found_and_not_made_again(amounts, poor, storage_uri):
    first = evaluate(poor, amounts, storage_uri)
    kept = storage.read_bytes(first.uri)
    assert evaluate(poor, amounts, storage_uri) == first
    assert storage.read_bytes(first.uri) == kept
    assert evaluate(poor, amounts, storage_uri, minimum_slice_rows=5).uri != first.uri


def test_the_share_of_each_feature_is_told_most_important_first(amounts, good, storage_uri):
    plot = next(plot for plot in evaluate(good, amounts, storage_uri).plots if plot.name == "importance")
    shares = plot.series["candidate"]
    assert set(plot.x[:2]) == {"distance", "city"}
    assert list(shares) == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
