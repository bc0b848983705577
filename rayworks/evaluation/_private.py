"""What rayworks relies on in Evidently without a promise that it stays. Read in Evidently 0.7.23 and pandas 3.1.1.

Each function has a test in ``tests/seams/test_evidently_seams.py`` that fails when Evidently changes.
"""

import importlib
import os
from typing import Any


def evidently() -> Any:
    """Import Evidently, such that it reports nothing to its makers, and return the module.

    - ``DO_NOT_TRACK``: Evidently (``evidently/telemetry.py``) sends no event where the variable is set, whatever it
      is. None of the events is of a report, but a later version may add one.
    - ``infer_dtype_from_object``: Evidently imports the name from pandas, for tests of column types that a comparison
      does not run. pandas 3.1 has removed it, so that the import would fail.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from pandas.core.dtypes import common

    if not hasattr(common, "infer_dtype_from_object"):
        setattr(common, "infer_dtype_from_object", _removed)  # noqa: B010 - for type checkers there is no such name
    return importlib.import_module("evidently")


def _removed(dtype: object) -> None:
    raise NotImplementedError("pandas 3.1 has no infer_dtype_from_object")
