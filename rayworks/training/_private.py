# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Ray has types for a part only.
"""What training and tuning use of Ray Train and Ray Tune beyond their public interface. Read in Ray 2.60.

``tests/seams/test_training_seams.py`` breaks when one of these no longer holds.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

POLL_SECONDS = 0.5  # Ray Train's default is 2
SNAPSHOT_SECONDS = 1  # Ray Tune's default is at least 10


def data_parallel_trainer() -> Any:
    """Return Ray Train's trainer for any process group, or none.

    The public trainers, ``XGBoostTrainer`` and ``TorchTrainer``, subclass it for one framework each. A loop without a
    process group has no public trainer in Ray Train V2 (``ray.train.data_parallel_trainer`` is V1's), and with this
    one the process group is an argument. It is marked ``DeveloperAPI``.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer


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


def snapshot_search_often() -> None:
    """Let Ray Tune store the state of a search every second: a search that is killed loses what is not stored.

    By default, the interval is at least ten seconds. ``Tuner`` has no argument for it.
    """
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(SNAPSHOT_SECONDS))


def silence(*libraries: str) -> None:
    """Let these libraries log warnings only: Ray's and Optuna's loggers print to the terminal by themselves."""
    for library in libraries:
        logging.getLogger(library).setLevel(logging.WARNING)


def silence_reports() -> None:
    """Let Ray Train log nothing about each report of a worker, in this worker.

    ``LoggingConfig`` does not reach that logger: its name is the path of its file, not the module's
    (``ray.train.v2._internal.execution.context``).
    """
    from ray.train.v2._internal.execution import context

    context.logger.setLevel(logging.WARNING)


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


def search_callback(on_step: Callable[[int, list[float]], None], restored: Callable[[], Any], reported: str) -> Any:
    """Return a callback for Ray Tune that reports the state of the search after each of its steps.

    Ray Tune pickles its callbacks with the search, and a search that is resumed gets the pickled ones, not those of the
    new ``Tuner``. So this one is pickled as a call of ``restored``, which creates the callback of the process that
    resumes it. It reads ``is_finished`` and ``last_result`` of Ray Tune's trials, a class marked ``DeveloperAPI``.

    Args:
        on_step: Takes the number of finished trials, and the last value of ``reported`` of each trial that has one.
        restored: A function that pickle finds by its name, or a ``functools.partial`` of one.
        reported: A key of what the trials report.
    """
    from ray.tune import Callback

    class SearchCallback(Callback):
        def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
            finished = sum(trial.is_finished() for trial in trials)
            on_step(finished, [trial.last_result[reported] for trial in trials if reported in trial.last_result])

        def __reduce__(self) -> tuple[Any, ...]:
            return restored, ()

    return SearchCallback()


def trials_in(files: list[str]) -> int:
    """Return how many trials of a stored search reported something, given the URIs of its files.

    Ray Tune stores the reports of each trial in ``result.json`` in the trial's folder.
    """
    return sum(file.endswith("/result.json") for file in files)


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a trial with Python's numbers: Ray Tune's samplers return NumPy's for some ranges."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in config.items()}
