"""Files by URI. No other module opens a path.

A URI is a local path, or any URI that pyarrow supports directly (``s3://``, ``gs://``, ``hdfs://``, ``file://``) or
through fsspec. Writes are atomic: a reader sees the old or the new content, never a part of it.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Generator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from rayworks.errors import StorageError, first_line

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem
    from pyarrow.lib import NativeFile

NO_FOLDERS = {
    **dict.fromkeys(("http", "https"), "a web server neither lists its files nor says when they changed"),
    **dict.fromkeys(("zip", "tar", "libarchive"), "an archive"),
}
RecordT = TypeVar("RecordT", bound=BaseModel)


def filesystem(uri: str) -> "tuple[FileSystem, str]":
    """Return the pyarrow file system for ``uri``, and the path within it.

    ``AWS_ENDPOINT_URL`` and the usual AWS and Google variables are honoured. Everything after the scheme is taken
    literally: ``s3://lake/a b#1`` is that very key, and ``%20`` is not decoded.

    Raises:
        StorageError: No file system supports the scheme, its package is not installed, or the store does not respond.
    """
    import pyarrow as pa
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    scheme, _, rest = uri.partition("://")
    if scheme in NO_FOLDERS or "::" in scheme:
        raise StorageError(
            "this URI names no folder or object store",
            where=uri,
            detail=NO_FOLDERS.get(scheme, "an address within another one"),
            remedy="Download or unpack the files, and name the folder that they are in",
        )
    try:
        with explained(uri, "reach"):  # requests the region of an S3 bucket
            return fs.FileSystem.from_uri(uri if scheme == "file" else f"{scheme}://{quote(rest, safe='/:@')}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, NotImplementedError) as error:
        problem = str(error)
    try:
        import fsspec

        backend, path = fsspec.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(backend)), path
    except (ImportError, ValueError, OSError) as error:
        raise StorageError(
            "no file system supports this URI",
            where=uri,
            detail=f"{problem}; {error}",
            remedy="Check the scheme, and install the extra for it (s3, gcs)",
        ) from error


def absolute(uri: str) -> str:
    """Return ``uri`` in a form that does not depend on the working directory."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """Return ``uri`` with ``parts`` appended."""
    return "/".join([uri.rstrip("/"), *parts])


@contextlib.contextmanager
def explained(uri: str, verb: str) -> Generator[None]:
    """Turn the exceptions of a file system into a ``StorageError``."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError("the file or folder does not exist", where=uri, remedy="Check the path") from error
    except OSError as error:
        remedy = {
            errno.ENOSPC: "The disk is full: free space, or set RAYWORKS_STORAGE_URI to another location",
            errno.EROFS: "The location is read-only: set RAYWORKS_STORAGE_URI to a writable one",
            errno.EACCES: "Grant access, or choose another location",
            errno.EPERM: "Grant access, or choose another location",
        }.get(error.errno or 0, "Check the path, the credentials and the connection, and that the file is complete")
        raise StorageError(f"cannot {verb}", where=uri, detail=str(error), remedy=remedy) from error


@contextlib.contextmanager
def open_input(uri: str) -> "Generator[NativeFile]":
    """Open a seekable binary file for reading.

    Raises:
        StorageError: It does not exist or cannot be read.
    """
    with explained(uri, "read"):
        files, path = filesystem(uri)
        with files.open_input_file(path) as source:
            yield source


@contextlib.contextmanager
def open_output(uri: str) -> "Generator[NativeFile]":
    """Open a binary file for writing. It appears under its name only when the block ends without an exception.

    Raises:
        StorageError: It cannot be written. ``uri`` keeps its previous content, or stays absent.
    """
    with explained(uri, "write"):
        files, path = filesystem(uri)
        folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
        # On object stores too: pyarrow cannot abort an upload, and completes it when the stream is garbage-collected.
        # The name is hidden, so that the leftovers of a killed process are not taken for data.
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
    """Return the content of ``uri``. Raise ``StorageError`` if it does not exist or cannot be read."""
    with open_input(uri) as source:
        return source.read()


def write_bytes(uri: str, content: bytes) -> None:
    """Replace the content of ``uri`` atomically. Raise ``StorageError`` if it cannot be written."""
    with open_output(uri) as sink:
        sink.write(content)


def create(uri: str, content: bytes) -> bool:
    """Write ``content`` to ``uri`` unless something is stored there, and return whether it was written.

    Of several processes that create the same file at the same time, one succeeds: on local and network file systems,
    and on object stores that support conditional writes, such as S3 and Google Cloud Storage.

    Raises:
        StorageError: It cannot be written.
    """
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    with explained(uri, "write"):
        # Not an instance that fsspec keeps: it would keep the endpoint and the credentials of its first use as well.
        files, path = fsspec.url_to_fs(absolute(uri), skip_instance_cache=True)
        if not isinstance(files, LocalFileSystem):
            try:
                files.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if _says_that_it_exists(error):
                    return False
                raise OSError(str(error)) from error  # s3fs lets some exceptions of botocore through
            return True
        part = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex[:8]}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            os.link(part, path)
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
        return True


def _says_that_it_exists(error: Exception) -> bool:
    """Return whether an object store refused a conditional write because of its condition.

    s3fs raises ``FileExistsError`` only where the store names the condition, as AWS does and MinIO does not.
    """
    response: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "PreconditionFailed"


def read_record(uri: str, kind: type[RecordT]) -> RecordT:
    """Return the pydantic record stored as JSON at ``uri``.

    Raises:
        StorageError: It does not exist, or is not such a record.
    """
    content = read_bytes(uri)
    try:
        return kind.model_validate_json(content)
    except ValueError as error:
        raise StorageError(
            f"this is not a {kind.__name__}",
            where=uri,
            detail=first_line(error),
            remedy="It was written by another version or another program: delete it and create it again",
        ) from error


def write_record(uri: str, record: BaseModel) -> None:
    """Store a pydantic record as JSON, atomically."""
    write_bytes(uri, record.model_dump_json(indent=1).encode())


def exists(uri: str) -> bool:
    """Return whether a file or folder exists at ``uri``."""
    from pyarrow import fs

    with explained(uri, "access"):
        files, path = filesystem(uri)
        return files.get_file_info(path).type != fs.FileType.NotFound


class Listing(NamedTuple):
    """What is beneath a URI."""

    folder: str
    """The path of the folder that was listed; of a single file, its folder."""
    files: "list[tuple[str, FileInfo]]"
    """As :func:`list_files` returns them."""
    everything: list[str]
    """Paths of all files beneath the folder, also of hidden ones and of those that a glob does not match."""


def files_in(uri: str) -> "list[tuple[str, FileInfo]]":
    """Return what :func:`list_files` does; nothing where nothing exists, or a folder has no files.

    Raises:
        StorageError: It cannot be listed.
    """
    try:
        return list_files(uri)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def list_files(uri: str) -> "list[tuple[str, FileInfo]]":
    """List the files at ``uri``: a file, all files beneath a folder, or the matches of a glob (``*``, ``?``, ``[``).

    Hidden files and names that start with ``_`` are skipped, as is usual in data lakes, but not ``_name=value``.
    Sorted by name.

    Returns:
        Pairs of URI and pyarrow ``FileInfo`` (size in bytes, modification time).

    Raises:
        StorageError: It does not exist, or has no files.
    """
    return listing(uri).files


def listing(uri: str) -> Listing:
    """Like :func:`list_files`, with the folder and everything beneath it."""
    from pyarrow import fs

    with explained(uri, "list"):
        files, path = filesystem(uri)
        info, pattern = files.get_file_info(path.rstrip("/") or "/"), tuple[str, ...]()
        wildcard = next((position for position, character in enumerate(uri) if character in "*?["), None)
        if info.type == fs.FileType.NotFound and wildcard is not None:
            folder, slash, _ = uri[:wildcard].rpartition("/")
            root, pattern = folder + slash or ".", PurePosixPath(uri[len(folder + slash) :]).parts
            files, path = filesystem(root)
            info = files.get_file_info(path.rstrip("/") or "/")
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(uri)
        path = info.path
        prefix = uri.partition("://")[0] + "://" if "://" in uri and not uri.startswith("file://") else ""
        if info.type == fs.FileType.File:
            return Listing(str(PurePosixPath(path).parent), [(prefix + path, info)], [])
        beneath = [i for i in files.get_file_info(fs.FileSelector(path, recursive=True)) if i.type == fs.FileType.File]
        listed = [
            (prefix + info.path, info)
            for info in beneath
            if not _is_hidden(parts := PurePosixPath(info.path).relative_to(path).parts)
            and (not pattern or _matches(parts, pattern))
        ]
        if not listed:
            raise FileNotFoundError(uri)
        everything = [info.path.removeprefix(f"{path}/") for info in beneath]
        return Listing(path, sorted(listed, key=lambda pair: pair[0]), everything)


def _is_hidden(parts: Sequence[str]) -> bool:
    """Return whether data lakes do not take a path for data. Spark takes ``_name=value/``, a partition."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a glob: ``*`` does not cross folders, ``**`` does, and alone it
    stands for no folder as well."""
    if not pattern:
        return not parts
    first, rest = pattern[0], pattern[1:]
    most = len(parts) if "**" in first else min(len(parts), 1)
    return any(
        fnmatchcase("/".join(parts[:count]), first) and _matches(parts[count:], rest)
        for count in range(0 if first == "**" else 1, most + 1)
    )


def delete(uri: str) -> None:
    """Delete the file or the folder at ``uri``, if it exists."""
    from pyarrow import fs

    with explained(uri, "delete"):
        files, path = filesystem(uri)
        kind = files.get_file_info(path).type
        if kind == fs.FileType.Directory:
            files.delete_dir(path)
        elif kind == fs.FileType.File:
            with contextlib.suppress(FileNotFoundError):  # deleted by another process since then
                files.delete_file(path)


def check_writable(uri: str) -> None:
    """Check that ``uri`` is writable, by writing and deleting a small file beneath it.

    Raises:
        StorageError: It is not writable.
    """
    probe = join(uri, f"probe-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    write_bytes(probe, b"rayworks")
    delete(probe)
