"""New rows beside those that the champion learned from, in Ray tasks."""

import importlib.util
from pathlib import Path

import polars as pl
import pytest

from rayworks.errors import DataError, RegistryError, StorageError
from rayworks.evaluation import champion_drift, registry
from rayworks.monitoring.drift_report import DriftReport
from rayworks.monitoring.options import MonitorOptions
from rayworks.records import ModelVersion
from rayworks.reporting import drift_page
from tests.stages.conftest import Trained


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(scope="module")
def champion(rides: Trained, tracking_uri: str) -> ModelVersion:
    from mlflow import MlflowClient

    uris = {"tracking_uri": tracking_uri, "storage_uri": rides.storage_uri}
    version = registry.registration(rides.model, **uris).run()
    client = MlflowClient(tracking_uri, tracking_uri)
    client.set_registered_model_alias(version.name, registry.CHAMPION, str(version.version))
    return version


@pytest.fixture(scope="module")
def rows(rides: Trained) -> pl.DataFrame:
    return pl.read_parquet(Path(rides.storage_uri).parent / "rides.parquet")


@pytest.fixture
def monitored(champion: ModelVersion, rides: Trained, tracking_uri: str, tmp_path: Path):
    def monitor(rows: pl.DataFrame, **options: int) -> DriftReport:
        rows.write_csv(tmp_path / "new.csv")
        uris = {"tracking_uri": tracking_uri, "storage_uri": rides.storage_uri}
        return champion_drift.stage(champion.name, str(tmp_path / "new.csv"), MonitorOptions(**options), **uris).run()

    return monitor


def drifted(report: DriftReport) -> set[str]:
    return {column.before.name for column in report.columns if column.drifted}


def test_rows_like_those_that_were_learned_have_not_drifted_and_a_shift_put_in_is_found(monitored, rows: pl.DataFrame):
    same = monitored(rows)
    assert not same.drifted, same.why
    assert (same.rows_in, same.rows_kept, same.rows_rejected) == (1000, 1000, 0)
    assert {"start", "start_hour"} <= set(same.left_out)
    assert same.error is not None
    assert same.error.before.rows == 150
    assert same.error.now.rows == 1000
    length = pl.col("ride length")
    shifted = monitored(rows.with_columns(length * 2, pl.lit("Bern").alias("city"), pl.col("fare") + 10))
    assert shifted.drifted
    assert {"ride length", "city", "fare"} <= drifted(shifted)
    assert "passengers" not in drifted(shifted)
    assert shifted.prediction.drifted
    assert shifted.error is not None
    assert shifted.error.worse
    page = drift_page.html(shifted, {"report": "/a.html"})
    assert "The data have drifted" in page
    assert "RMSE is worse by" in page
    assert [label for label, _ in drift_page.summary(shifted, {})][:3] == ["model", "rows", "verdict"]


def test_rows_without_labels_are_compared_without_the_target(monitored, rows: pl.DataFrame):
    report = monitored(rows.drop("fare"))
    assert report.rows_kept == 1000
    assert report.error is None
    assert report.left_out["fare"] == "most rows have no label yet"


def test_where_most_rows_have_a_label_the_others_are_rejected_as_in_training(monitored, rows: pl.DataFrame):
    fare = pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise("fare").alias("fare")
    report = monitored(rows.with_columns(fare))
    assert report.rows_kept == 900
    assert report.reasons == {"the target fare is missing": 100}


def test_too_few_rows_alarm_nothing_and_the_page_says_so(monitored, rows: pl.DataFrame):
    report = monitored(rows.head(499).with_columns(pl.lit("Bern").alias("city")))
    assert not report.drifted
    assert drifted(report) == set()
    assert "499 rows are too few to tell: 500 are needed" in drift_page.html(report, {})


@pytest.mark.skipif(importlib.util.find_spec("evidently") is None, reason="NO EVIDENTLY: install the extra evidently")
def test_a_page_of_evidently_is_kept_beside_the_report_and_linked_from_it(monitored, rows: pl.DataFrame):
    report = monitored(rows.with_columns(pl.lit("Bern").alias("city")), evidently_rows=200)
    assert report.drifted
    page = Path(report.evidently_uri).read_text()
    assert [column.before.name for column in report.columns if f'"{column.before.name}"' not in page] == []
    assert "start_hour" in report.left_out
    assert '"start_hour"' not in page
    linked = drift_page.html(report, {"evidently": "/storage/reports/a-evidently.html"})
    assert 'href="a-evidently.html"' in linked
    assert monitored(rows).evidently_uri is None


def test_files_without_the_columns_of_the_model_are_refused(monitored):
    with pytest.raises(DataError, match=r"has none of the model's columns: .*new.csv \(it has a, b; the model needs "):
        monitored(pl.DataFrame({"a": [1, 2], "b": [3, 4]}))


def test_no_report_is_kept_of_a_file_that_changed_while_it_was_read(
    champion: ModelVersion, rides: Trained, tracking_uri: str, rows: pl.DataFrame, tmp_path: Path
):
    file, uris = tmp_path / "new.csv", {"tracking_uri": tracking_uri, "storage_uri": rides.storage_uri}
    rows.write_csv(file)
    stage = champion_drift.stage(champion.name, str(file), MonitorOptions(), **uris)
    rows.head(900).write_csv(file)
    with pytest.raises(DataError, match=rf"changed while it was read: {file} \(.*\).*when it is complete"):
        stage.run()
    assert stage.find() is None


def test_a_source_without_files_and_a_model_without_a_champion_are_refused(
    champion: ModelVersion, rides: Trained, tracking_uri: str, tmp_path: Path
):
    uris = {"tracking_uri": tracking_uri, "storage_uri": rides.storage_uri}
    with pytest.raises(RegistryError, match="The model has no champion to monitor: tram"):
        champion_drift.stage("tram", str(tmp_path), MonitorOptions(), **uris)
    with pytest.raises(StorageError, match=str(tmp_path)):
        champion_drift.stage(champion.name, str(tmp_path), MonitorOptions(), **uris)
