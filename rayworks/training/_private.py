# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray has types for a part only.
"""What training and tuning use of Ray Train beyond its public interface. Read in Ray 2.60.

``tests/seams/test_training_seams.py`` breaks when one of these no longer holds.
"""

import logging
import os
from typing import Any

POLL_SECONDS = 0.5  # Ray Train's default is 2


def data_parallel_trainer() -> Any:
    """Return Ray Train's trainer for any process group, or none.

    The public trainers, ``XGBoostTrainer`` and ``TorchTrainer``, subclass it for one framework each. A loop without a
    process group has no public trainer in Ray Train V2 (``ray.train.data_parallel_trainer`` is V1's), and with this
    one the process group is an argument. It is marked ``DeveloperAPI``.

    It gives the workers no datasets of Ray Data. Ray Train would start a process for them, and import Ray Data in each
    worker, also where the trainer is given none.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class TrainerWithoutDatasets(DataParallelTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]

    return TrainerWithoutDatasets


def failure_config(start_attempts: int) -> Any:
    """Return that Ray Train does not restart workers that failed, and how often it tries to start them.

    The number of attempts, ``controller_failure_limit``, is marked ``DeveloperAPI``. Without it, Ray Train waits
    forever for a node that never comes. An attempt takes a minute (``RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S``).
    """
    from ray.train import FailureConfig

    return FailureConfig(max_failures=0, controller_failure_limit=start_attempts)


def poll_workers_often() -> None:
    """Let Ray Train's controller poll the workers every half second: this is how late it notices that they finished.

    The interval is an environment variable that the documentation does not name; the trainer has no argument for it,
    and passes it from this process to the controller.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_SECONDS))


def stay_in_working_directory() -> None:
    """Let the workers keep the working directory of Ray's workers, in which all other tasks run.

    By default, Ray Train changes it to a folder of the training, where no file of the user's lies. The variable is
    documented; the trainer has no argument for it, and reads it in this process.
    """
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def silence(*libraries: str) -> None:
    """Let these libraries log warnings only: Ray's and Optuna's loggers print to the terminal by themselves."""
    for library in libraries:
        logging.getLogger(library).setLevel(logging.WARNING)


def is_raised_by_ray(error: BaseException) -> bool:
    """Return whether ``error`` is one of Ray's own, by which it stops a worker: it is not the loop's failure.

    Ray does not list them; they have in common that they are defined in its packages.
    """
    return type(error).__module__.startswith("ray.")


def worker_failures(error: BaseException) -> list[BaseException]:
    """Return the exceptions of the workers that failed a training; none if ``error`` is not about workers.

    ``WorkerGroupError.worker_failures``, by rank, is public but marked alpha.
    """
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    return list(failures.values())
