"""What training and tuning use of Ray beyond its public interface still exists and works. No Ray is started."""

import functools
import inspect
import logging
import os

import cloudpickle
import numpy as np
import pytest

from rayworks.errors import TrainingError
from rayworks.training import _private


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    """The seams set defaults in the environment: a test must not pass them on."""
    for name in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "TUNE_GLOBAL_CHECKPOINT_S"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_trainer_of_any_process_group_is_the_base_of_ray_trains_own():
    from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    trainer = _private.data_parallel_trainer()
    assert issubclass(XGBoostTrainer, trainer)
    created = trainer(
        lambda config: None,
        train_loop_config={"job": 1},
        backend_config=None,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="ray", failure_config=FailureConfig()),
    )
    assert type(created.backend_config) is BackendConfig


def test_a_trainer_that_cannot_start_its_workers_gives_up():
    config = _private.failure_config(10)
    assert (config.max_failures, config.controller_failure_limit) == (0, 10)


def test_ray_train_passes_the_poll_interval_to_its_controller():
    from ray.train.v2._internal.constants import HEALTH_CHECK_INTERVAL_S_ENV_VAR, get_env_vars_to_propagate

    _private.poll_workers_often()
    assert os.environ[HEALTH_CHECK_INTERVAL_S_ENV_VAR] == "0.5"
    assert get_env_vars_to_propagate()[HEALTH_CHECK_INTERVAL_S_ENV_VAR] == "0.5"


def test_the_users_own_intervals_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    _private.poll_workers_often()
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"


def test_ray_tune_reads_the_snapshot_interval_from_the_environment():
    from ray.tune.execution.tune_controller import TuneController

    _private.snapshot_search_often()
    (name,) = [name for name in os.environ if name.startswith("TUNE_GLOBAL")]
    assert f'"{name}"' in inspect.getsource(TuneController)


def test_the_logger_of_reports_is_named_by_its_file(monkeypatch):
    from ray.train.v2._internal.execution import context

    monkeypatch.setattr(context.logger, "level", context.logger.level)  # restored afterwards
    assert context.logger.name == context.__file__
    assert "Reporting training result" in inspect.getsource(context)
    _private.silence_reports()
    assert not context.logger.isEnabledFor(logging.INFO)


def test_errors_by_which_ray_stops_a_worker_are_not_the_loops():
    from ray.exceptions import RayTaskError, WorkerCrashedError
    from ray.train import TrainingFailedError

    assert _private.is_raised_by_ray(WorkerCrashedError())
    assert _private.is_raised_by_ray(TrainingFailedError())
    assert _private.is_raised_by_ray(RayTaskError("train", "", ValueError()))
    assert not _private.is_raised_by_ray(ValueError())
    assert not _private.is_raised_by_ray(TrainingError("x"))


def test_a_failed_training_has_the_exceptions_of_its_workers():
    from ray.train import ControllerError, WorkerGroupError

    first, second = ValueError("0"), ValueError("1")
    assert _private.worker_failures(WorkerGroupError("2 workers failed", {0: first, 1: second})) == [first, second]
    other = ControllerError(ValueError("controller"))
    assert _private.worker_failures(other) == []


def remembered(steps: list, number: int = 0):
    return _private.search_callback(
        lambda finished, values: steps.append((number, finished, values)),
        functools.partial(remembered, steps, number + 1),
        "best",
    )


def test_a_pickled_search_callback_is_created_again():
    from ray.tune import Callback

    copy = cloudpickle.loads(cloudpickle.dumps(remembered([])))
    assert isinstance(copy, Callback)
    again = cloudpickle.loads(cloudpickle.dumps(copy))
    steps = again.__reduce__()[0].args[0]
    again.on_step_end(iteration=1, trials=[])
    assert steps == [(2, 0, [])]


def test_a_search_callback_reads_the_state_of_ray_tunes_trials():
    from ray.tune.experiment import Trial

    running, finished, silent = (Trial("x", stub=True) for _ in range(3))
    running.update_last_result({"best": 0.5})
    finished.update_last_result({"best": 0.25})
    finished.set_status(Trial.TERMINATED)
    steps: list = []
    remembered(steps).on_step_end(iteration=1, trials=[running, finished, silent])
    assert steps == [(0, 1, [0.5, 0.25])]


def test_the_reports_of_a_trial_are_in_a_file_of_its_folder():
    from ray.tune.result import EXPR_RESULT_FILE

    files = [f"/search/ray/trial_{number}/{EXPR_RESULT_FILE}" for number in (1, 2)]
    assert _private.trials_in([*files, "/search/ray/tuner.pkl", "/search/ray/trial_1/params.json"]) == 2


def test_sampled_values_become_pythons_own():
    values = _private.plain({"a": np.int64(3), "b": np.float64(0.5), "c": "text", "d": 2})
    assert values == {"a": 3, "b": 0.5, "c": "text", "d": 2}
    assert [type(value) for value in values.values()] == [int, float, str, int]


def test_the_loggers_of_ray_and_optuna_are_named_after_their_packages():
    from optuna import study
    from ray.train.v2._internal.execution.controller import controller
    from ray.tune.execution import tune_controller

    packages = {"ray.train": controller.logger, "ray.tune": tune_controller.logger, "optuna": study.study._logger}
    before = {name: logging.getLogger(name).level for name in packages}
    try:
        for name, logger in packages.items():
            _private.silence(name)
            assert logger.name.startswith(f"{name}.")
            assert logger.getEffectiveLevel() == logging.WARNING
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
