"""URIs in, URIs out; nothing else opens a path.

A URI is a local path, or anything that pyarrow reads by itself (``s3://``, ``gs://``, ``hdfs://``, ``file://``) or
through fsspec. Writes are atomic: a reader sees the old content or the new, never a part.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Generator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from rayworks.errors import StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem
    from pyarrow.lib import NativeFile

RecordT = TypeVar("RecordT", bound=BaseModel)


def filesystem(uri: str) -> "tuple[FileSystem, str]":
    """The pyarrow file system that serves ``uri``, and the path in it.

    ``AWS_ENDPOINT_URL`` and the usual AWS and Google variables are honoured. What follows the scheme is taken as it
    stands: ``s3://lake/a b#1`` is that key, and ``%20`` is no blank.

    Raises:
        StorageError: No file system knows the scheme, its optional package is missing, or the store does not answer.
    """
    import pyarrow as pa
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    scheme, _, rest = uri.partition("://")
    try:
        with explained(uri, "reach"):  # S3 is asked for the region of the bucket
            return fs.FileSystem.from_uri(uri if scheme == "file" else f"{scheme}://{quote(rest, safe='/:@')}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, NotImplementedError) as error:
        said = str(error)
    try:
        import fsspec

        backend, path = fsspec.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(backend)), path
    except (ImportError, ValueError, OSError) as error:
        raise StorageError(
            "no file system serves this URI",
            where=uri,
            detail=f"{said}; {error}",
            remedy="Check the scheme, and install the extra for it (s3, gcs)",
        ) from error


def absolute(uri: str) -> str:
    """``uri`` so that another process, with another working directory, finds the same place."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` beneath it."""
    return "/".join([uri.rstrip("/"), *parts])


@contextlib.contextmanager
def explained(uri: str, verb: str) -> Generator[None]:
    """Turn what a file system raises into a sentence."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"cannot {verb}: nothing is there", where=uri, remedy="Check the path") from error
    except OSError as error:
        remedy = {
            errno.ENOSPC: "The disk is full: free space, or set RAYWORKS_STORAGE_URI to another place",
            errno.EROFS: "The place is read-only: set RAYWORKS_STORAGE_URI to one that can be written",
            errno.EACCES: "Grant access, or name another place",
            errno.EPERM: "Grant access, or name another place",
        }.get(error.errno or 0, "Check the path, the credentials and the connection, and that the file is whole")
        raise StorageError(f"cannot {verb}", where=uri, detail=str(error), remedy=remedy) from error


@contextlib.contextmanager
def open_input(uri: str) -> "Generator[NativeFile]":
    """A seekable binary file, open for reading.

    Raises:
        StorageError: It is absent or cannot be read.
    """
    with explained(uri, "read"):
        files, path = filesystem(uri)
        with files.open_input_file(path) as source:
            yield source


@contextlib.contextmanager
def open_output(uri: str) -> "Generator[NativeFile]":
    """A binary file, open for writing, that appears under its name only when the block ends without an error.

    Raises:
        StorageError: It cannot be written; nothing is left at ``uri``, or what was there before.
    """
    with explained(uri, "write"):
        files, path = filesystem(uri)
        folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
        # Object stores as well: pyarrow cannot abort an upload, and completes it when the stream is thrown away.
        # Hidden, so that what a killed process leaves is no data.
        part = str(folder / f".{name}.{uuid.uuid4().hex[:8]}.part")
        files.create_dir(str(folder), recursive=True)
        sink = files.open_output_stream(part)
        try:
            yield sink
            sink.close()
            files.move(part, path)
        except BaseException:
            for undo in (sink.close, lambda: files.delete_file(part)):
                with contextlib.suppress(OSError):
                    undo()
            raise


def read_bytes(uri: str) -> bytes:
    """The whole content of ``uri``. Raises StorageError when it is absent or cannot be read."""
    with open_input(uri) as source:
        return source.read()


def write_bytes(uri: str, content: bytes) -> None:
    """Replace the content of ``uri`` atomically. Raises StorageError when it cannot be written."""
    with open_output(uri) as sink:
        sink.write(content)


def read_record(uri: str, kind: type[RecordT]) -> RecordT:
    """The pydantic record stored at ``uri`` as JSON.

    Raises:
        StorageError: It is absent, or is not such a record.
    """
    content = read_bytes(uri)
    try:
        return kind.model_validate_json(content)
    except ValueError as error:
        raise StorageError(
            f"this is not a {kind.__name__}",
            where=uri,
            detail=str(error).splitlines()[0],
            remedy="It was written by another version or by another program: make it anew",
        ) from error


def write_record(uri: str, record: BaseModel) -> None:
    """Store a pydantic record as JSON, atomically."""
    write_bytes(uri, record.model_dump_json(indent=1).encode())


def exists(uri: str) -> bool:
    """Whether a file or folder is at ``uri``."""
    from pyarrow import fs

    with explained(uri, "look at"):
        files, path = filesystem(uri)
        return files.get_file_info(path).type != fs.FileType.NotFound


def list_files(uri: str) -> "list[tuple[str, FileInfo]]":
    """The files at ``uri``: the file itself, all files beneath a folder, or those that a glob (``*``, ``?``, ``[``) matches.

    Hidden files, and those whose name starts with ``_``, are left out, as in every data lake. Sorted by name.

    Returns:
        Pairs of URI and pyarrow ``FileInfo`` (size in bytes, modification time).

    Raises:
        StorageError: Nothing is there.
    """
    from pyarrow import fs

    with explained(uri, "list"):
        files, path = filesystem(uri)
        info, pattern = files.get_file_info(path.rstrip("/") or "/"), ""
        wild = next((position for position, character in enumerate(uri) if character in "*?["), None)
        if info.type == fs.FileType.NotFound and wild is not None:
            folder, slash, _ = uri[:wild].rpartition("/")
            root, pattern = folder + slash or ".", uri[len(folder + slash) :]
            files, path = filesystem(root)
            info = files.get_file_info(path.rstrip("/") or "/")
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(uri)
        path = info.path
        prefix = uri.partition("://")[0] + "://" if "://" in uri and not uri.startswith("file://") else ""
        found = [info] if info.type == fs.FileType.File else files.get_file_info(fs.FileSelector(path, recursive=True))
        if pattern:  # a star stays within its folder, two stars do not
            found = [
                f
                for f in found
                if fnmatch(f.path, f"{path}/{pattern}")
                and ("**" in pattern or f.path.count("/") == f"{path}/{pattern}".count("/"))
            ]
        visible = [
            f
            for f in found
            if f.type == fs.FileType.File
            and not any(part.startswith((".", "_")) for part in PurePosixPath(f.path).relative_to(path).parts)
        ]
        if not visible:
            raise FileNotFoundError(uri)
        return sorted(((prefix + f.path, f) for f in visible), key=lambda pair: pair[0])


def delete(uri: str) -> None:
    """Remove the file or the whole folder at ``uri``; nothing happens when it is absent."""
    from pyarrow import fs

    with explained(uri, "delete"):
        files, path = filesystem(uri)
        kind = files.get_file_info(path).type
        if kind == fs.FileType.Directory:
            files.delete_dir(path)
        elif kind == fs.FileType.File:
            files.delete_file(path)


def check_writable(uri: str) -> None:
    """Prove that ``uri`` can be written, by writing a small file beneath it and removing it.

    Raises:
        StorageError: It cannot.
    """
    probe = join(uri, f"probe-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    write_bytes(probe, b"rayworks")
    delete(probe)
