"""Optional dependencies: ``rayworks`` is the runner and the clusters, the extra ``ml`` the libraries of the models, and
``evidently`` a page beside that of ``monitor``."""

import importlib.util

from rayworks.errors import MissingExtraError

ML_MODULES = ("jinja2", "mlflow", "numpy", "optuna", "pandas", "polars", "scipy", "sklearn", "xgboost")


def require_ml() -> None:
    """Check that the models' libraries are installed, without importing them.

    Every room that needs them calls it when it is imported, so that a flow fails at its start and not in the middle.

    Raises:
        MissingExtraError: At least one of them is not installed.
    """
    if missing := [name for name in ML_MODULES if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(
            "the models' libraries are not installed",
            where=", ".join(missing),
            remedy="Run: pip install 'rayworks[ml]'. Ray workers need them as well: add them to the image",
        )


def require_evidently() -> None:
    """Check that Evidently is installed, without importing it.

    Raises:
        MissingExtraError: It is not.
    """
    if importlib.util.find_spec("evidently") is None:
        raise MissingExtraError(
            "Evidently is not installed",
            where="options.evidently_rows",
            remedy="Run: pip install 'rayworks[evidently]'. Ray workers need it as well: add it to the image. "
            "Or leave the option empty: the page of rayworks needs no Evidently",
        )
