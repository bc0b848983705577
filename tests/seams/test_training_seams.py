"""What training and tuning use of Ray beyond its public interface still exists and works. No Ray is started."""

import logging
import os

import pytest

from rayworks.errors import TrainingError
from rayworks.training import _private


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    """The seams set defaults in the environment: a test must not pass them on."""
    for name in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_CHDIR_TO_TRIAL_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_trainer_of_any_process_group_is_the_base_of_ray_trains_own():
    from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    trainer = _private.data_parallel_trainer()
    assert issubclass(XGBoostTrainer, trainer.__base__)
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


def test_ray_train_handles_datasets_in_a_callback_that_the_trainer_leaves_out():
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

    trainer = _private.data_parallel_trainer()(lambda config: None, backend_config=None)
    all_callbacks = [type(callback) for callback in super(type(trainer), trainer)._create_default_callbacks()]
    assert DatasetsCallback in all_callbacks
    all_callbacks.remove(DatasetsCallback)
    assert [type(callback) for callback in trainer._create_default_callbacks()] == all_callbacks


def test_ray_train_changes_the_working_directory_of_its_workers_unless_a_variable_says_otherwise():
    trainer = _private.data_parallel_trainer()(lambda config: None, backend_config=None)

    def callbacks() -> list[str]:
        return [type(callback).__name__ for callback in trainer._create_default_callbacks()]

    assert "WorkingDirectorySetupCallback" in callbacks()
    _private.stay_in_working_directory()
    assert "WorkingDirectorySetupCallback" not in callbacks()


def test_ray_train_passes_the_poll_interval_to_its_controller():
    from ray.train.v2._internal.constants import HEALTH_CHECK_INTERVAL_S_ENV_VAR, get_env_vars_to_propagate

    _private.poll_workers_often()
    assert os.environ[HEALTH_CHECK_INTERVAL_S_ENV_VAR] == "0.5"
    assert get_env_vars_to_propagate()[HEALTH_CHECK_INTERVAL_S_ENV_VAR] == "0.5"


def test_the_users_own_intervals_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    _private.poll_workers_often()
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"


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


def test_the_loggers_of_ray_and_optuna_are_named_after_their_packages():
    from optuna import study
    from ray.train.v2._internal.execution.controller import controller

    packages = {"ray.train": controller.logger, "optuna": study.study._logger}
    before = {name: logging.getLogger(name).level for name in packages}
    try:
        for name, logger in packages.items():
            _private.silence(name)
            assert logger.name.startswith(f"{name}.")
            assert logger.getEffectiveLevel() == logging.WARNING
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
