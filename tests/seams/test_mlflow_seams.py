"""What rayworks relies on in MLflow without a promise: what to read again when a test fails after an upgrade."""

import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rayworks.models import _private

VARIABLES = ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_UV_AUTO_DETECT")


@pytest.fixture
def unsilenced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow without rayworks. Whatever a test changes is undone."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic")}
    with warnings.catch_warnings():
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name in VARIABLES:
        os.environ.pop(name, None)


def test_mlflow_reads_the_environment_variables_that_silence_it(unsilenced: None):
    from mlflow import environment_variables as mlflow_environment

    variables = [getattr(mlflow_environment, name) for name in VARIABLES]
    assert [variable.get() for variable in variables] == [True, 7, True]  # else there is nothing left to silence
    _private.silence_mlflow()
    assert [variable.get() for variable in variables] == [False, 2, False]


def test_what_the_user_set_is_left_alone(unsilenced: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    _private.silence_mlflow()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"


def test_warnings_about_the_code_of_mlflow_are_hidden_and_others_are_not(unsilenced: None):
    _private.silence_mlflow()
    with warnings.catch_warnings(record=True) as shown:
        warnings.warn_explicit("of its own code", UserWarning, "utils.py", 1, module="mlflow.models.utils")
        warnings.warn_explicit("of the user's", UserWarning, "loop.py", 1, module="my_loop")
    assert [str(warning.message) for warning in shown] == ["of the user's"]


def test_mlflow_and_its_migrations_log_below_the_loggers_that_are_silenced():
    import mlflow.store.db.utils
    import mlflow.utils.requirements_utils
    from alembic.runtime import migration

    assert mlflow.store.db.utils._logger.name.startswith("mlflow.")
    assert migration.log.name.startswith("alembic.")


def test_created_tables_are_complete_and_no_connection_stays_open(tmp_path: Path):
    from mlflow import MlflowClient

    part, database = tmp_path / "part", tmp_path / "mlflow.db"
    part.touch()
    _private.create_tables(f"sqlite:///{part}")
    assert str(part) not in [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    part.rename(database)
    tables = schema(database)
    client = MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")
    assert client.search_registered_models() == []
    assert schema(database) == tables  # MLflow had no table to add and no migration to run


def schema(database: Path) -> list[tuple[str, str]]:
    """The names and definitions of all tables and indexes, and the migration that the database is at."""
    with closing(sqlite3.connect(database)) as connection:
        objects = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        return [*objects, *connection.execute("SELECT 'version', version_num FROM alembic_version").fetchall()]


def test_mlflow_warns_of_a_predict_without_a_type_hint_but_not_of_a_data_frame():
    import mlflow.pyfunc
    import pandas as pd

    with warnings.catch_warnings(record=True) as without:

        class Untyped(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return model_input

    with warnings.catch_warnings(record=True) as typed:

        class Typed(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input: pd.DataFrame, params=None):
                return model_input

    assert ["Add type hints" in str(warning.message) for warning in without] == [True]
    assert typed == []
