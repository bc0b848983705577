"""Items are counted, divided into parts and read as they were written. No Ray."""

import gzip
import json
import threading
from pathlib import Path

import polars as pl
import pytest

from rayworks import storage
from rayworks.errors import DataError, ParameterError, StorageError
from rayworks.items import sources
from rayworks.items.sources import Inline


def write(place: str, name: str, content: str | bytes) -> str:
    uri = storage.join(place, name)
    storage.write_bytes(uri, content.encode() if isinstance(content, str) else content)
    return uri


def all_items(source: sources.Source, count: int) -> list:
    """Everything in a source, by parts of ``count`` items."""
    firsts = range(0, len(source), count)
    return [item for first in firsts for item in source.part(first, min(count, len(source) - first)).read()]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("0:4", [0, 1, 2, 3]),
        ("10:0:-5", [10, 5]),
        ('["a", {"b": 1}]', ["a", {"b": 1}]),
        (" 3:5 ", [3, 4]),
        ("5:5", []),
    ],
)
def test_a_range_and_a_list_are_items(text: str, items: list, tmp_path: Path):
    assert all_items(sources.of_text(text, str(tmp_path)), 2) == items


def test_lines_of_text_are_items_without_the_blank_ones(place: str, tmp_path: Path):
    uri = write(place, "urls.txt", "\ufeffhttp://a\r\nhttp://b \n\n  \nü\x0bx")
    assert all_items(sources.of_text(uri, str(tmp_path)), 2) == ["http://a", "http://b ", "  ", "ü\x0bx"]


def test_json_lines_are_any_values(place: str, tmp_path: Path):
    values = [{"a": [1, None]}, "text", 2.5, None, []]
    uri = write(place, "items.jsonl", "\n".join(json.dumps(value) for value in values) + "\n\n")
    assert all_items(sources.of_text(uri, str(tmp_path)), 3) == values


def test_rows_of_csv_are_dictionaries_of_text(tmp_path: Path):
    uri = write(str(tmp_path), "rows.csv", 'id,name\n007,"a ""b"", c"\n8,"two\nlines"\n')
    rows = [{"id": "007", "name": 'a "b", c'}, {"id": "8", "name": "two\nlines"}]
    assert all_items(sources.of_text(uri, str(tmp_path / "storage")), 1) == rows


def test_rows_of_parquet_have_their_types(tmp_path: Path):
    table = pl.DataFrame({"n": range(25), "tags": [["a"]] * 25})
    table.write_parquet(tmp_path / "b.parquet", row_group_size=10)
    table.head(3).write_parquet(tmp_path / "a.parquet")
    source = sources.of_text(str(tmp_path / "*.parquet"), str(tmp_path / "storage"))
    expected = [*table.head(3).to_dicts(), *table.to_dicts()]
    assert len(source) == 28
    assert all_items(source, 7) == all_items(source, 28) == expected


def test_compressed_text_is_read(tmp_path: Path):
    write(str(tmp_path), "lines.txt.gz", gzip.compress(b"a\nb\n"))
    assert all_items(sources.of_text(str(tmp_path / "lines.txt.gz"), str(tmp_path)), 5) == ["a", "b"]


def test_many_lines_come_back_in_order_from_every_position(tmp_path: Path):
    lines = [f"line {number}" for number in range(25_000)]
    uri = write(str(tmp_path), "many.txt", "\n".join(lines))
    source = sources.of_text(uri, str(tmp_path / "storage"))
    assert source.part(9_998, 10_005).read() == lines[9_998:20_003]


def test_text_is_copied_once(tmp_path: Path):
    uri = write(str(tmp_path), "a.txt", "a\nb\n")
    copies = tmp_path / "storage" / "items"
    first = sources.of_text(uri, str(tmp_path / "storage"))
    written = {path: path.stat().st_mtime_ns for path in copies.rglob("*") if path.is_file()}
    assert sources.of_text(uri, str(tmp_path / "storage")).fingerprint() == first.fingerprint()
    assert {path: path.stat().st_mtime_ns for path in copies.rglob("*") if path.is_file()} == written


def test_other_content_has_another_fingerprint(tmp_path: Path):
    uri = write(str(tmp_path), "a.txt", "a\nb\n")
    first = sources.of_text(uri, str(tmp_path)).fingerprint()
    write(str(tmp_path), "a.txt", "a\nb\nc\n")
    assert sources.of_text(uri, str(tmp_path)).fingerprint() != first


def test_items_in_memory_have_a_fingerprint_of_their_values():
    assert Inline(range(5)).fingerprint() == Inline(range(5)).fingerprint() != Inline(range(6)).fingerprint()
    assert Inline([{"a": 1}]).fingerprint() == Inline([{"a": 1}]).fingerprint() != Inline([{"a": 2}]).fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", '{"a": 1}\n{"a":\n', r"^A line is not JSON: .*bad\.jsonl, line 2 "),
        ("bad.csv", "a,b\n1,2\n3\n", r"^A row cannot be read: .*bad\.csv, line 3 \(1 values for 2 columns\)"),
        ("open.csv", 'a,b\n1,"2\n3,4\n', r"^A row cannot be read: .*open\.csv, line 3 "),
        ("twice.csv", "a,a\n1,2\n", r"two columns have the same name"),
        ("latin.txt", "München\n".encode("latin-1"), r"^The file is not UTF-8: .*latin\.txt"),
        ("bad.parquet", "no", r"^This is not a Parquet file: .*bad\.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, name: str, content: str, message: str):
    uri = write(str(tmp_path), name, content)
    with pytest.raises(DataError, match=message):
        sources.of_text(uri, str(tmp_path / "storage"))
    assert not list((tmp_path / "storage").rglob("*.json")), "a refused file must not look as if it had been read"


def test_files_of_different_formats_are_refused(tmp_path: Path):
    write(str(tmp_path), "a.txt", "a")
    write(str(tmp_path), "b.csv", "a\n1\n")
    with pytest.raises(DataError, match=r"different formats: .* \(csv, text\)"):
        sources.of_text(str(tmp_path), str(tmp_path))


def test_a_file_that_does_not_exist_is_a_sentence(tmp_path: Path):
    with pytest.raises(StorageError, match=r"does not exist: .*nothing\.txt"):
        sources.of_text(str(tmp_path / "nothing.txt"), str(tmp_path))


def test_a_broken_list_is_a_sentence(tmp_path: Path):
    with pytest.raises(ParameterError, match=r"^The items are not a JSON list: \[1, "):
        sources.of_text("[1, ", str(tmp_path))


def test_items_that_cannot_be_pickled_are_refused_with_their_numbers():
    with pytest.raises(ParameterError, match=r"cannot be pickled: items 0 to 1 \(TypeError: cannot pickle"):
        Inline([1, threading.Lock()]).fingerprint()
