"""A search on a real Ray: it returns the best trial, records failures, and resumes after an interruption."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rayworks import metrics
from rayworks.data import processing
from rayworks.errors import ClusterError, ParameterError, TrainingError, TransferError
from rayworks.params import Choice, FloatRange, IntRange, ProcessOptions, TrainOptions, TuneOptions
from rayworks.records import DatasetRef
from rayworks.training import training, tuning

pytestmark = pytest.mark.usefixtures("ray_session")
DEPTHS = {"max_depth": Choice(values=[2, 6])}


@pytest.fixture(scope="module")
def dataset(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    folder = tmp_path_factory.mktemp("tuning")
    features = np.random.default_rng(0).normal(size=(2000, 3)).round(3)
    frame = pl.DataFrame(features, ["a", "b", "c"]).with_columns(y=pl.col("a") * pl.col("b"))
    frame.write_csv(folder / "data.csv")
    return processing.stage(str(folder / "data.csv"), "y", ProcessOptions(), storage_uri=str(folder)).run()


def test_a_search_tries_the_defaults_first_and_returns_the_best_trial(dataset: DatasetRef, tmp_path: Path):
    # In 20 rounds every larger learning rate is better by more than chance.
    options = TuneOptions(trials=3, space={"learning_rate": FloatRange(low=0.05, high=0.5, log=True)})
    train, messages = TrainOptions(rounds=20, hyperparameters={"seed": 1}), list[str]()
    stage = tuning.stage(dataset, options, train, storage_uri=str(tmp_path))
    result = stage.run(lambda fraction, message: messages.append(message))
    assert len(result.trials) == 3
    assert result.trials[0].hyperparameters == {"learning_rate": 0.05}
    assert result.best.metric == min(trial.metric for trial in result.trials if trial.metric is not None)
    assert {len(trial.values) for trial in result.trials} == {3}
    assert result.best.hyperparameters["seed"] == 1
    assert any(message.startswith("3 of 3 trials, best 0.") for message in messages)
    assert messages[-1].startswith(f"3 trials, the best number {result.best.number} with rmse 0.")


def test_a_search_and_a_training_maximise_a_metric_where_higher_is_better(
    dataset: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(metrics.DEFAULT, "regression", "r2")
    loop = "tests.stages.example_loops:scores_higher_when_deeper"
    options, messages = TuneOptions(trials=4, space={"max_depth": IntRange(low=1, high=6)}), []
    stage = tuning.stage(dataset, options, TrainOptions(loop=loop, rounds=3), storage_uri=str(tmp_path))
    result = stage.run(lambda fraction, message: messages.append(message))
    depths = [trial.hyperparameters["max_depth"] for trial in result.trials]
    best = max(trial.metric for trial in result.trials)
    assert (result.best.hyperparameters["max_depth"], result.best.metric) == (max(depths), best)
    assert min(depths) < max(depths)
    assert any(message.endswith(f"trials, best {best:.4g}") for message in messages)
    train = TrainOptions(loop=loop, rounds=3, hyperparameters={"max_depth": 4})
    model = training.stage(dataset, train, storage_uri=str(tmp_path)).run()
    assert (model.metric, model.best_round, model.validation) == ("r2", 2, 4)


def test_a_trial_that_fails_is_recorded_and_does_not_end_the_search(dataset: DatasetRef, tmp_path: Path):
    options = TuneOptions(trials=3, space=DEPTHS, seed=3)
    train = TrainOptions(loop="tests.stages.example_loops:fails_when_shallow", rounds=5)
    result = tuning.stage(dataset, options, train, storage_uri=str(tmp_path)).run()
    states = {(trial.hyperparameters["max_depth"], trial.state) for trial in result.trials}
    assert states == {(2, "failed"), (6, "completed")}
    assert all("too shallow" in trial.error for trial in result.trials if trial.state == "failed")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"max_depth": IntRange(low=6, high=6)}, "tune.space.max_depth .from 6 to 6"),
        ({"eta": FloatRange(low=0, high=1, log=True)}, "from 0 to 1, logarithmic"),
        ({"depth": IntRange(low=1, high=6)}, "no such hyperparameter: depth"),
    ],
)
def test_an_invalid_search_space_is_refused(space: dict, message: str, dataset: DatasetRef, tmp_path: Path):
    options = TuneOptions(trials=1, space=space)
    with pytest.raises(ParameterError, match=message):
        tuning.stage(dataset, options, TrainOptions(rounds=5), storage_uri=str(tmp_path)).run()


def test_a_trial_for_which_no_node_has_the_cpus_is_refused(dataset: DatasetRef, tmp_path: Path):
    options = TuneOptions(trials=1, cpus_per_trial=1000)
    words = (
        r"^No node of Ray has the CPUs of a trial: 1000 CPU \(they have \d+ CPU\)\. Decrease tune\.cpus_per_trial\.$"
    )
    with pytest.raises(ClusterError, match=words):
        tuning.stage(dataset, options, TrainOptions(rounds=2), storage_uri=str(tmp_path)).run()


SEARCH = """
import sys
import ray
from rayworks.params import IntRange, TrainOptions, TuneOptions
from rayworks.data import manifest
from rayworks.training import tuning
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
dataset = manifest.load(sys.argv[1]).ref()
options = TuneOptions(trials=6, concurrent=1, space={"max_depth": IntRange(low=1, high=6)})
train = TrainOptions(loop="tests.stages.example_loops:slow", rounds=3)
stage = tuning.stage(dataset, options, train, storage_uri=sys.argv[2])
stage.run(lambda fraction, message: print(message, flush=True))
"""


def test_a_killed_search_resumes_and_repeats_no_finished_trial(dataset: DatasetRef, tmp_path: Path):
    command = [sys.executable, "-c", SEARCH, dataset.uri, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as search:
        assert search.stdout is not None
        for line in search.stdout:
            if line.startswith("2 of 6"):
                search.send_signal(signal.SIGKILL)
                break
    (folder,) = (tmp_path / "tuning").iterdir()
    before = {file: file.stat().st_mtime for file in folder.glob("trials/*.json")}
    options = TuneOptions(trials=6, concurrent=1, space={"max_depth": IntRange(low=1, high=6)})
    train = TrainOptions(loop="tests.stages.example_loops:slow", rounds=3)
    result = tuning.stage(dataset, options, train, storage_uri=str(tmp_path)).run()
    assert result.resumed == len(before) == 2
    assert [trial.state for trial in result.trials] == ["completed"] * 6
    assert {file: file.stat().st_mtime for file in before} == before


def test_no_trial_starts_after_the_time_limit(dataset: DatasetRef, tmp_path: Path):
    options = TuneOptions(trials=50, seconds=0.001, concurrent=1, space={"max_depth": IntRange(low=1, high=6)})
    result = tuning.stage(dataset, options, TrainOptions(rounds=2), storage_uri=str(tmp_path)).run()
    assert [trial.state for trial in result.trials] == ["completed"]


def test_a_search_on_a_split_by_time_validates_the_future(ray_session: None, tmp_path: Path):
    rows = 600
    frame = pl.DataFrame({"day": pl.date_range(pl.date(2020, 1, 1), pl.date(2021, 8, 22), eager=True)[:rows]})
    frame = frame.with_columns(n=pl.int_range(rows), y=pl.int_range(rows) * 1.0)
    frame.sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "data.parquet")
    dataset = processing.stage(str(tmp_path / "data.parquet"), "y", ProcessOptions(), storage_uri=str(tmp_path)).run()
    train = TrainOptions(loop="tests.stages.example_loops:fails_on_the_past", rounds=2)
    options = TuneOptions(trials=1, space=DEPTHS)
    result = tuning.stage(dataset, options, train, storage_uri=str(tmp_path)).run()
    assert [trial.state for trial in result.trials] == ["completed"]


def test_a_model_that_predicts_nan_fails_its_trials_with_a_sentence(dataset: DatasetRef, tmp_path: Path):
    train = TrainOptions(loop="tests.stages.example_loops:predicts_nan", rounds=1)
    words = "No trial returned a result: .*The model's predictions are not finite numbers .1,?[0-9]+ NaN"
    with pytest.raises(TrainingError, match=words.replace("1,?[0-9]+", "[0-9,]+")):
        tuning.stage(dataset, TuneOptions(trials=1), train, storage_uri=str(tmp_path)).run()


def test_a_model_that_cannot_be_stored_ends_the_search_with_its_first_trial(dataset: DatasetRef, tmp_path: Path):
    train = TrainOptions(loop="tests.stages.example_loops:holds_a_lock", rounds=1)
    with pytest.raises(TransferError, match="its attribute lock"):
        tuning.stage(dataset, TuneOptions(trials=3), train, storage_uri=str(tmp_path)).run()
