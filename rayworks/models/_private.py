"""What rayworks relies on in MLflow without a promise that it stays. Read in MLflow 3.17.2.

Each function has a test in ``tests/seams/test_mlflow_seams.py`` that fails when MLflow changes.
"""

import logging
import os
import warnings


def silence_mlflow() -> None:
    """Keep MLflow from filling the logs of a run, and from retrying for minutes.

    Call it before MLflow is used. Variables that the user has set are left alone.

    - ``MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR``: progress bars end up as hundreds of lines in a log.
    - ``MLFLOW_HTTP_REQUEST_MAX_RETRIES``: with the default of 7 retries, a server that is down is noticed only after
      minutes.
    - ``MLFLOW_UV_AUTO_DETECT``: MLflow would copy the lock file of whatever project is in the working directory into
      each model.
    - The loggers of MLflow and of Alembic (its database migrations) write INFO lines that do not concern the user.
    - Warnings that are raised in MLflow's modules concern its own code, such as deprecated calls of pandas. The user
      cannot change it.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")


def create_tables(database_uri: str) -> None:
    """Create MLflow's tables in an empty database, and close all connections to it.

    ``SqlAlchemyStore`` would create them as well, but keeps its connections open: the file could not be moved. There is
    no public function; ``mlflow db upgrade`` refuses an empty database.

    Args:
        database_uri: SQLAlchemy's URI of the database, such as ``sqlite:////data/mlflow.db``.
    """
    from mlflow.store.db import utils as database

    engine = database.create_sqlalchemy_engine(database_uri)
    try:
        database._initialize_tables(engine)  # pyright: ignore[reportPrivateUsage]
    finally:
        engine.dispose()
