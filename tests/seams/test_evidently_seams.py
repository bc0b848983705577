"""What rayworks relies on in Evidently without a promise: what to read again when a test fails after an upgrade."""

import importlib.util
from pathlib import Path

import pytest

from rayworks.evaluation import _private

needs_evidently = pytest.mark.skipif(
    importlib.util.find_spec("evidently") is None, reason="NO EVIDENTLY: install the extra evidently to test its seams"
)


@needs_evidently
def test_evidently_still_needs_a_name_that_pandas_has_removed_and_is_imported_all_the_same():
    from pandas.core.dtypes import common

    (folder,) = importlib.util.find_spec("evidently").submodule_search_locations
    source = (Path(folder) / "legacy" / "tests" / "data_integrity_tests.py").read_text()
    assert "from pandas.core.dtypes.common import infer_dtype_from_object" in source
    assert getattr(common, "infer_dtype_from_object", _private._removed) is _private._removed
    assert _private.evidently().__version__.startswith("0.7.")
