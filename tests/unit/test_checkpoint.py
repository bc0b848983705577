"""The checkpoint of a training comes back as it was stored, on a local disk and on an object store. No Ray."""

import zipfile
from pathlib import Path

import pytest

from rayworks import storage
from rayworks.errors import StorageError
from rayworks.training import checkpoint


@pytest.fixture
def run(place: str) -> str:
    """The folder of a training."""
    return storage.join(place, "run")


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def written(folder: Path, **contents: str) -> Path:
    """Return a folder with these files, one of them in a folder of its own."""
    (folder / "state").mkdir(parents=True)
    for name, content in contents.items():
        (folder / "state" / name).write_text(content)
    return folder


def test_the_last_checkpoint_is_restored_and_an_earlier_one_leaves_nothing(run: str, tmp_path: Path):
    assert checkpoint.restore(run) is None
    checkpoint.write(run, written(tmp_path / "1", model="first", optimizer="Adam"))
    checkpoint.write(run, written(tmp_path / "2", model="second"))
    restored = checkpoint.restore(run)
    assert restored is not None
    assert files(restored) == {"state/model": "second"}
    assert len(storage.list_files(run)) == 1


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(run: str, tmp_path: Path):
    checkpoint.write(run, written(tmp_path / "1", model="first"))
    with pytest.raises(StorageError):
        checkpoint.write(run, tmp_path / "absent")
    restored = checkpoint.restore(run)
    assert restored is not None
    assert files(restored) == {"state/model": "first"}


def test_a_name_that_leads_out_of_the_folder_stays_in_it(run: str):
    with storage.open_output(storage.join(run, checkpoint.FILE)) as sink, zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("../escaped", "model")
    restored = checkpoint.restore(run)
    assert restored is not None
    assert files(restored) == {"escaped": "model"}
