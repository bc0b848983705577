"""Find or create. No Ray, no Prefect."""

from pathlib import Path

import pytest

from rayworks import reuse, storage
from rayworks.errors import StorageError
from rayworks.progress import silent
from rayworks.records import DatasetRef, Metrics

RECORD = DatasetRef(
    uri="/d", fingerprint="f", name="d", target="y", problem="regression", rows_in=1, rows_kept=1, rows_rejected=0
)


class Created:
    """A stage's ``create`` that stores its record, and counts its calls."""

    def __init__(self, uri: str) -> None:
        self.uri, self.calls = uri, 0

    def __call__(self, progress) -> DatasetRef:
        self.calls += 1
        progress(1.0, "created")
        storage.write_record(self.uri, RECORD)
        return RECORD


def stage(folder: Path) -> tuple[reuse.Stage[DatasetRef], Created]:
    created = Created(str(folder / "record.json"))
    return reuse.Stage(lambda: reuse.find_record(created.uri, DatasetRef), created), created


def test_a_stage_creates_its_result_once_and_then_reuses_it(tmp_path: Path):
    first, created = stage(tmp_path)
    messages: list[str] = []
    assert first.find() is None
    assert first.run(lambda _, message: messages.append(message)) == RECORD
    assert first.run(lambda _, message: messages.append(message)) == RECORD
    assert (created.calls, messages) == (1, ["created"])


def test_a_deleted_result_is_created_again(tmp_path: Path):
    first, created = stage(tmp_path)
    first.run(silent)
    storage.delete(created.uri)
    assert first.run(silent) == RECORD
    assert created.calls == 2


def test_a_record_of_another_kind_is_an_error_and_is_not_overwritten(tmp_path: Path):
    first, created = stage(tmp_path)
    storage.write_record(created.uri, Metrics(rows=1, values={}))
    with pytest.raises(StorageError, match=r"record\.json"):
        first.run(silent)
    assert created.calls == 0


def test_a_location_has_the_name_and_the_start_of_the_fingerprint():
    fingerprint = reuse.digest("loop", 1)
    assert reuse.location("s3://lake", "models", "rides", fingerprint) == f"s3://lake/models/rides-{fingerprint[:12]}"
