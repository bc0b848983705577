"""Training on a real Ray cluster: models for all kinds of targets and loops, and the errors of those that fail."""

import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rayworks.data import manifest, processing, split_rows
from rayworks.errors import ClusterError, DataError, ParameterError, TrainingError, TransferError
from rayworks.models import stored
from rayworks.params import ProcessOptions, TrainOptions
from rayworks.records import DatasetRef
from rayworks.training import training

pytestmark = pytest.mark.usefixtures("ray_session")
LOOPS = "tests.stages.example_loops"


def table(rows: int = 1500) -> pl.DataFrame:
    """Rows whose targets depend on a number, on a category, and on whether a number is missing."""
    random = np.random.default_rng(0)
    length = random.normal(size=rows).round(3)
    city = random.choice(["Oslo", "Rome", "Lima"], rows)
    noise = random.normal(size=rows)
    amount = 3 * length + 5 * (city == "Rome") + 0.1 * noise
    grade = np.select([amount < -1, amount < 3], ["low", "middle"], "high")
    missing = random.random(rows) < 0.1
    return pl.DataFrame(
        {"length": length, "city": city, "noise": noise, "amount": amount, "grade": grade}
    ).with_columns(length=pl.when(~pl.Series(missing)).then("length"), late=pl.Series(amount > 1))


def processed(folder: Path, target: str) -> DatasetRef:
    others = {"amount", "grade", "late"} - {target}
    source = folder / f"{target}.csv"
    table().drop(others).write_csv(source)
    return processing.stage(str(source), target, ProcessOptions(), storage_uri=str(folder)).run()


@pytest.fixture(scope="module")
def amounts(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return processed(tmp_path_factory.mktemp("amounts"), "amount")


def quality(model_uri: str, dataset: DatasetRef) -> float:
    """Share of the variance, or of the rows, that the model gets right on the test split."""
    rows = pl.concat(split_rows.frames(manifest.load(dataset), "test", [*table().columns[:3], dataset.target]))
    predicted = stored.load(model_uri).predict(rows.drop(dataset.target).to_pandas())["prediction"].to_numpy()
    actual = rows[dataset.target].to_numpy()
    if dataset.problem == "regression":
        return 1 - float(((predicted - actual) ** 2).mean() / actual.var())
    return float((predicted == actual).mean())


def test_two_workers_train_the_same_model_as_one_and_it_is_reused(amounts: DatasetRef, tmp_path: Path):
    options = TrainOptions(rounds=40)
    single = training.stage(amounts, options, storage_uri=str(tmp_path / "one")).run()
    shared = options.model_copy(update={"workers": 2})
    double = training.stage(amounts, shared, storage_uri=str(tmp_path / "two")).run()
    assert quality(single.uri, amounts) > 0.9
    assert double.validation == pytest.approx(single.validation, rel=0.02)
    assert [point.round for point in single.curve] == list(range(1, len(single.curve) + 1))
    assert single.validation == min(point.validation for point in single.curve)
    assert training.stage(amounts, options, storage_uri=str(tmp_path / "one")).find() == single


@pytest.mark.parametrize(("target", "problem"), [("grade", "multiclass"), ("late", "binary")])
def test_classes_may_be_strings_or_booleans(target: str, problem: str, tmp_path: Path):
    dataset = processed(tmp_path, target)
    model = training.stage(dataset, TrainOptions(rounds=20), storage_uri=str(tmp_path)).run()
    assert (dataset.problem, model.metric) == (problem, "log_loss")
    assert quality(model.uri, dataset) > 0.85


def test_a_user_defined_loop_trains_by_the_same_contract(amounts: DatasetRef, tmp_path: Path):
    options = TrainOptions(loop=f"{LOOPS}:linear", rounds=15)
    model = training.stage(amounts, options, storage_uri=str(tmp_path)).run()
    assert len(model.curve) == 15
    assert quality(model.uri, amounts) > 0.4


@pytest.mark.parametrize("workers", [1, 2])
def test_the_loop_runs_again_on_training_and_validation_rows(workers: int, amounts: DatasetRef, tmp_path: Path):
    log, splits = tmp_path / "rows.log", manifest.load(amounts)
    train, validation = (splits.split(name).rows for name in ("train", "validation"))
    options = TrainOptions(loop=f"{LOOPS}:counts_rows", rounds=4, workers=workers, hyperparameters={"log": str(log)})
    model = training.stage(amounts, options, storage_uri=str(tmp_path)).run()
    runs = [tuple(map(int, line.split()[:2])) for line in log.read_text().splitlines()]
    first, second = ([rows for rounds, rows in runs if rounds == most] for most in (4, model.refit_rounds))
    assert model.refit_rounds == math.ceil(2 * (train + validation) / train)
    assert (sum(first), sum(second)) == (train, train + validation)
    assert (model.best_round, len(model.curve)) == (2, 3)


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_split_by_time_also_find_the_rounds_on_an_earlier_part_of_them(workers: int, tmp_path: Path):
    log, start = tmp_path / "rows.log", datetime(2025, 1, 1)
    days = pl.DataFrame({"day": [start + timedelta(days=day) for day in range(1000)], "amount": range(1000)})
    days.with_columns(length=pl.col("amount") % 7).sample(fraction=1, shuffle=True, seed=0).write_parquet(
        tmp_path / "days.parquet"
    )
    dataset = processing.stage(
        str(tmp_path / "days.parquet"), "amount", ProcessOptions(), storage_uri=str(tmp_path)
    ).run()
    options = TrainOptions(loop=f"{LOOPS}:counts_rows", rounds=4, workers=workers, hyperparameters={"log": str(log)})
    model = training.stage(dataset, options, storage_uri=str(tmp_path)).run()
    runs = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    runs.sort(key=lambda run: run[1])  # a worker may begin a pass before another one ends the pass before
    passes = [runs[first : first + workers] for first in range(0, len(runs), workers)]
    assert [sum(rows for _, rows, _, _ in shards) for shards in passes] == [550, 700, 850]
    earlier, first, _ = ((max(run[2] for run in shards), min(run[3] for run in shards)) for shards in passes)
    assert (first, earlier) == ((699, 700), (549, 550))
    assert (model.best_round, model.earlier_best_round) == (2, 2)
    assert model.refit_rounds == math.ceil((2 / 700 + 2 / 550) / 2 * 850)


@pytest.mark.parametrize(
    ("same_day", "late_class"), [(600, False), (1, True)], ids=["few rows are earlier", "a class comes late"]
)
def test_rows_split_by_time_have_no_earlier_part_that_lacks_rows_or_classes(
    same_day: int, late_class: bool, tmp_path: Path
):
    start = datetime(2025, 1, 1)
    numbers = range(1000)
    days = [start + timedelta(days=number if number < 100 else max(number, 100 + same_day)) for number in numbers]
    kinds = ["late" if late_class and number > 600 and number % 2 else "ab"[number % 2] for number in numbers]
    pl.DataFrame({"day": days, "length": numbers, "kind": kinds}).write_parquet(tmp_path / "days.parquet")
    dataset = processing.stage(
        str(tmp_path / "days.parquet"), "kind", ProcessOptions(), storage_uri=str(tmp_path)
    ).run()
    whole = manifest.load(dataset)
    assert whole.split_method == "time"
    assert split_rows.earlier_origin(whole) is None


def test_without_refit_the_loop_runs_once(amounts: DatasetRef, tmp_path: Path):
    log = tmp_path / "rows.log"
    options = TrainOptions(loop=f"{LOOPS}:counts_rows", rounds=3, refit=False, hyperparameters={"log": str(log)})
    assert training.stage(amounts, options, storage_uri=str(tmp_path)).run().refit_rounds is None
    assert len(log.read_text().splitlines()) == 1


def test_a_loop_that_reports_nothing_is_an_error(amounts: DatasetRef, tmp_path: Path):
    options = TrainOptions(loop=f"{LOOPS}:reports_nothing", rounds=2)
    with pytest.raises(TrainingError, match="The training loop reported nothing"):
        training.stage(amounts, options, storage_uri=str(tmp_path)).run()


def test_two_workers_with_a_wrong_parameter_fail_without_a_restart(amounts: DatasetRef, tmp_path: Path):
    options = TrainOptions(workers=2, hyperparameters={"depth": 3})
    with pytest.raises(ParameterError, match="no such hyperparameter: depth"):
        training.stage(amounts, options, storage_uri=str(tmp_path)).run()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_cannot_be_pickled_is_not_trained_again(workers: int, amounts: DatasetRef, tmp_path: Path):
    log = tmp_path / "starts.log"
    options = TrainOptions(loop=f"{LOOPS}:holds_a_lock", workers=workers, hyperparameters={"log": str(log)})
    with pytest.raises(TransferError, match=f"{LOOPS}:holds_a_lock, Constant, its attribute lock"):
        training.stage(amounts, options, storage_uri=str(tmp_path)).run()
    assert len(log.read_text().splitlines()) == workers


@pytest.mark.parametrize(("workers", "cpus"), [(1, 2), (2, 1)])
def test_libraries_have_a_thread_for_each_cpu_of_a_worker(workers: int, cpus: int, amounts: DatasetRef, tmp_path: Path):
    loop = f"{LOOPS}:raises_its_threads"
    options = TrainOptions(loop=loop, workers=workers, cpus_per_worker=cpus, max_failures=0)
    with pytest.raises(TrainingError, match=rf"ValueError: \{{{cpus}\}}"):
        training.stage(amounts, options, storage_uri=str(tmp_path)).run()


def test_a_model_that_predicts_nan_is_not_stored(amounts: DatasetRef, tmp_path: Path):
    options = TrainOptions(loop=f"{LOOPS}:predicts_nan", workers=2)
    with pytest.raises(TrainingError, match="predictions are not finite numbers"):
        training.stage(amounts, options, storage_uri=str(tmp_path)).run()


def test_a_loop_finds_the_files_of_the_working_directory(amounts: DatasetRef, tmp_path: Path):
    options = TrainOptions(loop=f"{LOOPS}:reads_a_file", hyperparameters={"file": "pyproject.toml"})
    assert training.stage(amounts, options, storage_uri=str(tmp_path)).run().best_round == 1


def test_bad_data_found_by_one_of_two_workers_fails_the_training_without_training_again(
    amounts: DatasetRef, tmp_path: Path
):
    log = tmp_path / "starts.log"
    options = TrainOptions(
        loop=f"{LOOPS}:data_are_bad_for_the_second", workers=2, max_failures=3, hyperparameters={"log": str(log)}
    )
    with pytest.raises(DataError, match=r"A file is not readable: part-7.parquet"):
        training.stage(amounts, options, storage_uri=str(tmp_path)).run()
    assert log.read_text().split().count("1") == 1


def test_more_workers_than_ray_has_capacity_for_are_refused_at_once(amounts: DatasetRef, tmp_path: Path):
    with pytest.raises(ClusterError, match="no capacity for 9 workers of 2 CPUs"):
        training.stage(amounts, TrainOptions(workers=9, cpus_per_worker=2), storage_uri=str(tmp_path)).run()
