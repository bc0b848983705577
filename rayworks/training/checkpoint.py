"""The checkpoint of a training on the storage: the files of the last one, as one archive, which is replaced whole."""

import tempfile
import zipfile
from pathlib import Path
from typing import IO, cast

from rayworks import storage

FILE = "checkpoint.zip"


def write(run_uri: str, folder: Path) -> None:
    """Store the files in ``folder`` as the checkpoint of the training at ``run_uri``, in place of an earlier one."""
    with (
        storage.open_output(storage.join(run_uri, FILE)) as sink,
        zipfile.ZipFile(cast(IO[bytes], sink), "w", strict_timestamps=False) as archive,
    ):
        for path in (folder, *folder.rglob("*")):  # an absent folder is an error
            archive.write(path, path.relative_to(folder))


def restore(run_uri: str) -> Path | None:
    """Copy the files of the checkpoint to a new folder of this machine, and return it; None if there is none."""
    uri = storage.join(run_uri, FILE)
    if not storage.exists(uri):
        return None
    folder = Path(tempfile.mkdtemp(prefix="rayworks-"))
    # Not a tar archive: Python 3.11.0 to 3.11.3, which Debian 12 has, cannot refuse names that lead out of the folder.
    with storage.open_input(uri) as source, zipfile.ZipFile(cast(IO[bytes], source)) as archive:
        archive.extractall(folder)
    return folder
