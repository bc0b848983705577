"""The checkpoint of a training on the storage: the files of the last one, as one archive, which is replaced whole."""

import tarfile
import tempfile
from pathlib import Path
from typing import IO, cast

from rayworks import storage

FILE = "checkpoint.tar"


def write(run_uri: str, folder: Path) -> None:
    """Store the files in ``folder`` as the checkpoint of the training at ``run_uri``, in place of an earlier one."""
    with (
        storage.open_output(storage.join(run_uri, FILE)) as sink,
        tarfile.open(fileobj=cast(IO[bytes], sink), mode="w|") as archive,
    ):
        archive.add(folder, arcname=".")


def restore(run_uri: str) -> Path | None:
    """Copy the files of the checkpoint to a new folder of this machine, and return it; None if there is none."""
    uri = storage.join(run_uri, FILE)
    if not storage.exists(uri):
        return None
    folder = Path(tempfile.mkdtemp(prefix="rayworks-"))
    with storage.open_input(uri) as source, tarfile.open(fileobj=cast(IO[bytes], source), mode="r|") as archive:
        archive.extractall(folder, filter="data")
    return folder
