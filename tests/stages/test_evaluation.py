"""Evaluation of stored models on processed datasets, in Ray tasks."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rayworks import parallel, storage
from rayworks.data import manifest, processing, split_rows
from rayworks.errors import ParameterError, RayworksError, RegistryError, TrainingError
from rayworks.evaluation import evaluation
from rayworks.models import stored
from rayworks.params import EvaluateOptions, ProcessOptions, SplitOptions
from rayworks.records import DatasetRef, Evaluation, FeatureSet, ModelVersion
from tests.stages.example_loops import NotANumberBeyondTheExample

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
    """Fit ``predictor`` on the training rows, and store it as a model."""
    whole = manifest.load(dataset)
    features, target, _ = split_rows.sampled(whole, ["train"], ROWS)
    uri = f"{dataset.uri}-{name}"
    stored.save(predictor.fit(features, target), uri, dataset=whole, metadata={})
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


def version(uri: str) -> ModelVersion:
    """A stored model as if it were registered."""
    return ModelVersion(name="m", version=1, uri=uri, run_id="", fingerprint=uri)


def evaluate(
    candidate: str, dataset: DatasetRef, storage_uri: str, champion: str | None = None, **options: Any
) -> Evaluation:
    return evaluation.stage(
        version(candidate),
        dataset,
        champion=version(champion) if champion else None,
        options=EvaluateOptions(**options),
        storage_uri=storage_uri,
        tracking_uri=TRACKING,
    ).run()


def test_candidate_champion_and_baseline_are_judged_on_the_same_rows(amounts, good, poor, storage_uri, table):
    result = evaluate(good, amounts, storage_uri, poor)
    test = pl.concat(split_rows.frames(manifest.load(amounts), "test", [*table.columns.drop("size")])).to_pandas()
    predicted = stored.load(good).predict(test.drop(columns="minutes"))["prediction"]
    assert result.candidate.rows == len(test) == result.baseline.rows == result.champion.rows
    assert result.candidate.values["rmse"] == pytest.approx(np.sqrt(np.square(test.minutes - predicted).mean()))
    assert result.candidate.values["rmse"] < result.champion.values["rmse"] < result.baseline.values["rmse"]
    assert result.baseline.values["r2"] == pytest.approx(0, abs=0.02)


def test_slices_are_the_values_of_columns_with_few_values(amounts, good, poor, storage_uri):
    result = evaluate(good, amounts, storage_uri, poor, minimum_slice_rows=1)
    assert {(part.column, part.value) for part in result.slices} == {
        ("city", "Oslo"),
        ("city", "Rome"),
        ("city", "Bern"),
        ("late", "true"),
        ("late", "false"),
    }
    assert sum(part.candidate.rows for part in result.slices if part.column == "city") == result.candidate.rows


def test_slices_with_few_rows_are_skipped(amounts, good, storage_uri):
    result = evaluate(good, amounts, storage_uri, slices=["city"], minimum_slice_rows=200)
    assert [part.value for part in result.slices] == ["Oslo", "Rome"]


def test_a_numeric_column_is_sliced_by_quartiles(amounts, good, storage_uri):
    result = evaluate(good, amounts, storage_uri, slices=["distance"])
    rows = [part.candidate.rows for part in result.slices]
    assert len(rows) == 4
    assert max(rows) - min(rows) <= 2


def test_an_unknown_slice_column_is_refused_with_the_known_ones(amounts, good, storage_uri):
    with pytest.raises(ParameterError, match=r"town.*distance, city, late"):
        evaluate(good, amounts, storage_uri, slices=["town"])


def test_many_tasks_return_the_same_evaluation_as_one(amounts, good, poor, storage_uri, monkeypatch):
    single = evaluate(good, amounts, storage_uri + "1", poor)
    monkeypatch.setattr(parallel, "IN_FLIGHT", 2)
    monkeypatch.setattr(evaluation, "ROWS_PER_TASK", 100)
    many = evaluate(good, amounts, storage_uri + "2", poor)
    assert many.model_copy(update={"uri": single.uri}) == single


def test_a_champion_that_cannot_be_loaded_is_an_error_and_not_a_weaker_rival(amounts, good, storage_uri):
    with pytest.raises(RayworksError, match="/nowhere/champion"):
        evaluate(good, amounts, storage_uri, "/nowhere/champion")


def test_a_champion_that_needs_a_missing_column_is_reported(ray_session, table, amounts, good, tmp_path):
    fewer = processed(table[["distance", "minutes"]], "minutes", tmp_path)
    result = evaluate(save(trees(), fewer, "fewer"), fewer, str(tmp_path), good)
    assert result.champion is None
    assert "city, late" in result.champion_error


def test_a_champion_of_another_target_is_not_compared(ray_session, table, amounts, good, tmp_path):
    sizes = processed(table, "size", tmp_path)
    result = evaluate(save(trees("XGBClassifier"), sizes, "sizes"), sizes, str(tmp_path), good)
    assert result.champion is None
    assert "another target: minutes" in result.champion_error
    assert result.metric == "log_loss"
    assert result.candidate.values["log_loss"] < result.baseline.values["log_loss"]
    assert {plot.name for plot in result.plots} == {"calibration", "confusion", "importance"}
    confusion = next(plot for plot in result.plots if plot.name == "confusion")
    assert sum(map(sum, confusion.series.values())) == result.candidate.rows


def test_a_candidate_of_another_target_than_that_of_the_dataset_is_refused(ray_session, table, good, tmp_path):
    sizes = processed(table, "size", tmp_path)
    words = r"^The model predicts another target than that of the dataset: .*-good \(minutes .*, not size \(multiclass"
    with pytest.raises(ParameterError, match=words):
        evaluate(good, sizes, str(tmp_path))


def test_two_classes_have_a_roc_curve(ray_session, table, tmp_path):
    late = processed(table.assign(late=table.distance + 20 * (table.city == "Rome") > 60), "late", tmp_path)
    result = evaluate(save(trees("XGBClassifier"), late, "late"), late, str(tmp_path))
    assert result.candidate.values["roc_auc"] > 0.95
    assert {"calibration", "roc"} < {plot.name for plot in result.plots}


def test_a_candidate_that_does_not_exist_is_an_error(amounts, storage_uri):
    with pytest.raises(RegistryError, match="/nowhere/candidate"):
        evaluate("/nowhere/candidate", amounts, storage_uri)


def test_a_candidate_that_predicts_nan_is_an_error(amounts, storage_uri):
    uri = f"{amounts.uri}-broken"
    stored.save(NotANumberBeyondTheExample(), uri, dataset=manifest.load(amounts), metadata={})
    with pytest.raises(TrainingError, match="not finite numbers"):
        evaluate(uri, amounts, storage_uri)


def test_an_evaluation_is_reused(amounts, poor, storage_uri):
    first = evaluate(poor, amounts, storage_uri)
    stored_bytes = storage.read_bytes(first.uri)
    assert evaluate(poor, amounts, storage_uri) == first
    assert storage.read_bytes(first.uri) == stored_bytes
    assert evaluate(poor, amounts, storage_uri, minimum_slice_rows=5).uri != first.uri


def test_an_evaluation_is_about_the_models_and_not_about_their_versions(amounts, good, poor, storage_uri):
    def stage(candidate: ModelVersion):
        return evaluation.stage(
            candidate,
            amounts,
            champion=version(poor),
            options=EvaluateOptions(),
            storage_uri=storage_uri,
            tracking_uri=TRACKING,
        )

    first = stage(version(good)).run()
    elsewhere = stage(version(good).model_copy(update={"uri": "models:/m/7"})).find()
    assert elsewhere == first.model_copy(update={"candidate_uri": "models:/m/7"})
    assert stage(version(good).model_copy(update={"fingerprint": "another model"})).find() is None


def test_an_evaluation_without_the_champions_scores_is_not_reused(amounts, good, poor, storage_uri, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(evaluation, "_load_champion", lambda *_: (None, "it had a bad day"))
        assert evaluate(good, amounts, storage_uri, poor).champion is None
    assert evaluate(good, amounts, storage_uri, poor).champion is not None


@pytest.mark.parametrize("error", [RegistryError("the registry is away"), TimeoutError("no answer")])
def test_an_outage_while_the_champion_scores_is_an_error_and_not_a_weaker_rival(error: Exception):
    class Away:
        feature_set = FeatureSet(columns=(), features=())

        def score(self, rows: pl.DataFrame) -> np.ndarray:
            raise error

    with pytest.raises(type(error)):
        evaluation._score_champion(cast(Any, Away()), pl.DataFrame({"a": [1]}))


def test_importances_are_shares_with_the_most_important_feature_first(amounts, good, storage_uri):
    plot = next(plot for plot in evaluate(good, amounts, storage_uri).plots if plot.name == "importance")
    shares = plot.series["candidate"]
    assert set(plot.x[:2]) == {"distance", "city"}
    assert list(shares) == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
