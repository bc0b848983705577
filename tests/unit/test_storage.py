"""Storage keeps the same promises on a local disk and on an object store. No Ray."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from moto.s3.exceptions import PreconditionFailed, S3ClientError

from rayworks import storage
from rayworks.errors import StorageError
from rayworks.records import Metrics


def everything(place: str) -> list[str]:
    """The names of all files beneath ``place``, hidden ones too."""
    from pyarrow import fs

    files, path = storage.filesystem(place)
    found = files.get_file_info(fs.FileSelector(path, recursive=True))
    return sorted(f.path.removeprefix(path + "/") for f in found if f.type == fs.FileType.File)


def test_a_file_is_created_once_however_many_processes_try(place: str):
    uri = storage.join(place, "folder", "a.txt")
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: storage.create(uri, b"%d" % number), range(16)))
    assert sum(created) == 1
    assert storage.read_bytes(uri) == b"%d" % created.index(True)
    assert everything(place) == ["folder/a.txt"]
    storage.delete(uri)
    assert storage.create(uri, b"again")


def test_a_file_is_created_once_on_a_store_that_does_not_name_the_condition(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(error: PreconditionFailed, failed_condition: str) -> None:
        S3ClientError.__init__(error, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(PreconditionFailed, "__init__", refuse)
    uri = storage.join(bucket, "as-minio.txt")
    assert [storage.create(uri, b"one"), storage.create(uri, b"two")] == [True, False]
    assert storage.read_bytes(uri) == b"one"


def names(listed: list) -> list[str]:
    return [uri.rpartition("/")[2] for uri, _ in listed]


def test_written_content_can_be_read_and_replaced(place: str):
    uri = storage.join(place, "folder", "a.txt")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.exists(uri)
    assert storage.exists(storage.join(place, "folder"))
    assert everything(place) == ["folder/a.txt"]


@pytest.mark.parametrize(
    "name", ["a b.txt", "ü#1.txt", "100%.txt", "a%20b.txt", "what?.txt", "a[1].txt", 'it\'s "so".txt']
)
def test_a_name_with_special_characters_is_taken_literally(place: str, name: str):
    uri = storage.join(place, "a folder", name)
    storage.write_bytes(uri, b"x")
    assert everything(place) == [f"a folder/{name}"]
    assert storage.list_files(storage.join(place, "a folder"))[0][0] == uri
    assert storage.read_bytes(storage.list_files(uri)[0][0]) == b"x"


def test_a_record_round_trips(place: str):
    record = Metrics(rows=3, values={"rmse": 0.1})
    storage.write_record(storage.join(place, "metrics.json"), record)
    assert storage.read_record(storage.join(place, "metrics.json"), Metrics) == record


@pytest.mark.parametrize("content", [b'{"rows": 3, "values": {}, "from another version": 1}', b"{", b"\xff"])
def test_content_that_is_not_the_expected_record_is_refused_with_a_sentence(place: str, content: bytes):
    storage.write_bytes(storage.join(place, "metrics.json"), content)
    with pytest.raises(StorageError, match=r"This is not a Metrics: .*metrics\.json \(.*create it again"):
        storage.read_record(storage.join(place, "metrics.json"), Metrics)


def test_an_interrupted_write_leaves_the_previous_content_and_nothing_else(place: str):
    uri = storage.join(place, "a.txt")
    storage.write_bytes(uri, b"old")
    for name in ("a.txt", "new.txt"):
        with pytest.raises(KeyboardInterrupt), storage.open_output(storage.join(place, name)) as sink:  # noqa: PT012
            sink.write(b"half")
            raise KeyboardInterrupt
    assert storage.read_bytes(uri) == b"old"
    assert everything(place) == ["a.txt"]


def test_a_reader_sees_the_old_content_until_the_write_is_complete(place: str):
    uri = storage.join(place, "a.txt")
    storage.write_bytes(uri, b"old")
    with storage.open_output(uri) as sink:
        sink.write(b"new")
        sink.flush()
        assert storage.read_bytes(uri) == b"old"
        assert names(storage.list_files(place)) == ["a.txt"]  # the leftovers of a killed writer are not listed
    assert storage.read_bytes(uri) == b"new"


def test_files_are_listed_by_file_folder_and_glob(place: str):
    for name in (
        "b/2.csv",
        "b/1.csv",
        "b/deep/3.csv",
        "b/1.txt",
        "c/4.csv",
        "b/_SUCCESS",
        "b/.hidden",
        "b/_temporary/5.csv",
    ):
        storage.write_bytes(storage.join(place, name), b"four")
    listed = {
        pattern: names(storage.list_files(storage.join(place, pattern)))
        for pattern in ("b", "b/", "b/1.csv", "b/*.csv", "b/[2-9].csv", "*/?.csv", "**/*.csv", "b/**.csv")
    }
    assert listed == {
        "b": ["1.csv", "1.txt", "2.csv", "3.csv"],
        "b/": ["1.csv", "1.txt", "2.csv", "3.csv"],
        "b/1.csv": ["1.csv"],
        "b/*.csv": ["1.csv", "2.csv"],
        "b/[2-9].csv": ["2.csv"],
        "*/?.csv": ["1.csv", "2.csv", "4.csv"],
        "**/*.csv": ["1.csv", "2.csv", "3.csv", "4.csv"],
        "b/**.csv": ["1.csv", "2.csv", "3.csv"],
    }
    assert [(uri, info.size) for uri, info in storage.list_files(storage.join(place, "c"))] == [(f"{place}/c/4.csv", 4)]


def test_two_asterisks_stand_for_any_number_of_folders_and_for_none(place: str):
    for name in ("1.csv", "s/2.csv", "s/t/3.csv", "s/t/u/4.csv"):
        storage.write_bytes(storage.join(place, name), b"four")
    listed = {
        pattern: [name[0] for name in names(storage.list_files(storage.join(place, pattern)))]
        for pattern in ("**/*.csv", "s/**/*.csv", "*/**/t/*.csv", "**/t/**/*.csv", "s/**", "**/[3-4].*", "**/**/?.csv")
    }
    assert listed == {
        "**/*.csv": ["1", "2", "3", "4"],
        "s/**/*.csv": ["2", "3", "4"],
        "*/**/t/*.csv": ["3"],
        "**/t/**/*.csv": ["3", "4"],
        "s/**": ["2", "3", "4"],
        "**/[3-4].*": ["3", "4"],
        "**/**/?.csv": ["1", "2", "3", "4"],
    }


def test_a_folder_that_names_a_value_is_not_hidden(place: str):
    for name in ("_day=1/1.csv", "day=2/2.csv", "_temporary/day=3/3.csv", ".day=4/4.csv"):
        storage.write_bytes(storage.join(place, name), b"four")
    assert names(storage.list_files(place)) == ["1.csv", "2.csv"]


def test_a_glob_matches_in_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a[1]").mkdir()
    monkeypatch.chdir(tmp_path / "a[1]")
    storage.write_bytes("b.csv", b"x")
    assert names(storage.list_files("*.csv")) == ["b.csv"]


def test_delete_removes_a_file_or_a_folder_and_ignores_what_does_not_exist(place: str):
    for name in ("a/1", "a/2", "b/3", "b/4"):
        storage.write_bytes(storage.join(place, name), b"")
    for name in ("a", "b/3", "c", "c/d"):
        storage.delete(storage.join(place, name))
    assert everything(place) == ["b/4"]


def test_a_file_that_another_process_deletes_first_is_deleted(place: str, monkeypatch: pytest.MonkeyPatch):
    storage.write_bytes(storage.join(place, "there"), b"")
    files, path = storage.filesystem(storage.join(place, "there"))

    class Stale:
        """A file system that saw the file before it was deleted."""

        def get_file_info(self, _: str) -> Any:
            return files.get_file_info(path)

        def delete_file(self, missing: str) -> None:
            files.delete_file(missing)

    monkeypatch.setattr(storage, "filesystem", lambda uri: (Stale(), f"{path}-deleted"))
    storage.delete(storage.join(place, "deleted"))


def test_check_writable_leaves_no_file_behind(place: str):
    storage.check_writable(place)
    assert everything(place) == []


@pytest.mark.parametrize("access", [storage.read_bytes, storage.list_files])
@pytest.mark.parametrize("name", ["missing.csv", "missing/*.csv", "*.csv"])
def test_a_missing_file_is_reported_with_its_uri(place: str, name: str, access):
    uri = storage.join(place, name)
    with pytest.raises(StorageError) as raised:
        access(uri)
    assert str(raised.value) == f"The file or folder does not exist: {uri}. Check the path."


def test_a_missing_bucket_is_reported_with_its_name(bucket: str):
    with pytest.raises(
        StorageError, match=r"Cannot write: s3://nowhere/a\.txt \(Bucket 'nowhere' not found.*Check the path"
    ):
        storage.write_bytes("s3://nowhere/a.txt", b"")


def test_an_unreachable_object_store_is_reported_with_the_connection_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"Cannot read: s3://lake/a\.txt \(.*connect to server.*credentials and the connection"
    ):
        storage.read_bytes("s3://lake/a.txt")


def test_an_unknown_scheme_is_reported():
    with pytest.raises(StorageError, match=r"No file system supports this URI: nope://a/b \(.*Check the scheme"):
        storage.read_bytes("nope://a/b")


def test_a_scheme_that_only_fsspec_supports_works():
    storage.write_bytes("memory://folder/a.txt", b"x")
    assert [uri for uri, _ in storage.list_files("memory://folder/*.txt")] == ["memory:///folder/a.txt"]
    assert storage.read_bytes("memory:///folder/a.txt") == b"x"


def test_a_relative_path_becomes_absolute_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.absolute("a/b") == storage.absolute("~/a/b") == f"{tmp_path}/a/b"
    assert storage.absolute("s3://lake/a") == "s3://lake/a"
    storage.write_bytes("a/b", b"x")
    assert storage.read_bytes(f"{tmp_path}/a/b") == b"x"
    assert storage.list_files("*/b")[0][0] == f"{tmp_path}/a/b"


def test_writing_to_the_path_of_a_folder_is_reported(tmp_path: Path):
    os.mkdir(tmp_path / "folder")
    with pytest.raises(StorageError, match=r"Cannot write: .*folder \(.*irectory"):
        storage.write_bytes(str(tmp_path / "folder"), b"")
    assert everything(str(tmp_path)) == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://host/data.csv",
        "https://host/data.csv?raw=true",
        "zip://a.csv::/tmp/a.zip",
        "simplecache::s3://lake/a.csv",
    ],
)
def test_addresses_that_are_no_folders_are_refused_with_a_remedy(uri: str):
    with pytest.raises(StorageError, match=r"names no folder or object store.*Download or unpack the files"):
        storage.list_files(uri)
