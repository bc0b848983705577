"""Empty places on a local disk and on an object store."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import object_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An object store, in which the tests of a module share a bucket."""
    with object_store() as uri:
        yield uri


@pytest.fixture(params=["disk", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for files."""
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
