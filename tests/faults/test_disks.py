"""A disk that is really full or read-only: existing files survive, no partial file is left, a sentence says why."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rayworks import storage
from rayworks.data import planning, processing, reading
from rayworks.errors import RegistryError, StorageError
from rayworks.evaluation import registry
from rayworks.params import ProcessOptions
from rayworks.settings import Settings


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(
            f"NOT TESTED, full and read-only disks: only root may mount one ({mounted.stderr.decode().strip()})"
        )
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def files_of(disk: Path) -> list[str]:
    return sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file())


def test_a_disk_that_fills_up_during_processing_has_no_partial_file(disk: Path, tmp_path: Path):
    random = np.random.default_rng(0)
    pl.DataFrame({name: random.normal(size=200_000) for name in "xzy"}).write_parquet(tmp_path / "a.parquet")
    chunks = reading.chunks(reading.source_files(str(tmp_path / "a.parquet")))
    plan = planning.make_plan(chunks, "y", ProcessOptions(), str(disk / "dataset"))
    with pytest.raises(
        StorageError, match=r"Cannot write: .*part-00000\.parquet .*The disk is full: free space, or set RAYWORKS"
    ):
        processing.process_chunk(chunks[0], plan)
    assert files_of(disk) == []


def test_an_existing_file_survives_a_write_that_does_not_fit_on_the_disk(disk: Path):
    storage.write_bytes(f"{disk}/champion.json", b"old")
    with pytest.raises(StorageError, match="The disk is full"):
        storage.write_bytes(f"{disk}/champion.json", b"new" * 1_000_000)
    assert (storage.read_bytes(f"{disk}/champion.json"), files_of(disk)) == (b"old", ["champion.json"])


def test_a_registry_that_did_not_fit_is_created_once_there_is_space(disk: Path):
    (disk / "filling").write_bytes(bytes(900_000))
    with pytest.raises(RegistryError, match=r"full.*that its disk is not full"):
        registry.champion("rides", tracking_uri=f"sqlite:///{disk}/mlflow.db")
    assert files_of(disk) == ["filling"]
    subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
    assert registry.champion("rides", tracking_uri=f"sqlite:///{disk}/mlflow.db") is None


def test_a_read_only_disk_is_named_by_everything_that_writes(disk: Path, monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    monkeypatch.setenv("RAYWORKS_STORAGE_URI", str(disk / "storage"))
    for write in (
        lambda: storage.write_bytes(f"{disk}/x", b""),
        lambda: Settings().tracking_uri(),
        lambda: registry.champion("rides", tracking_uri=f"sqlite:///{disk}/mlflow.db"),
    ):
        with pytest.raises(StorageError, match=r"Cannot write: .*The location is read-only: set RAYWORKS_STORAGE_URI"):
            write()
