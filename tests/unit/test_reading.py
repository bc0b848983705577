"""Files are read in batches of rows, and whatever is not a row is rejected with the reason. No Ray."""

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayworks.data import reading
from rayworks.errors import DataError, StorageError


def read(uri: Path | str) -> tuple[pl.DataFrame, list[tuple[int, str, str]]]:
    parts = [batch for chunk in reading.chunks(reading.source_files(str(uri))) for batch in reading.batches(chunk)]
    return pl.concat([part.rows for part in parts], how="diagonal_relaxed"), [
        bad for part in parts for bad in part.malformed
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
def test_csv_is_read_as_text_with_any_delimiter_and_compression(tmp_path: Path, name: str):
    delimiter = "\t" if "tsv" in name else ";"
    content = f"a{delimiter}b c\n1{delimiter}x\n2{delimiter}y\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, _ = read(tmp_path / name)
    assert rows.to_dict(as_series=False) == {"a": ["1", "2"], "b c": ["x", "y"]}


def test_a_line_with_too_few_values_is_rejected_and_the_others_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text('a,b\n1,x\n2\n3,"two\nlines"\n')
    rows, malformed = read(tmp_path / "a.csv")
    assert rows["b"].to_list() == ["x", "two\nlines"]
    assert [reason for _, _, reason in malformed] == ["the line has 1 values instead of 2"]


def test_json_lines_that_are_not_objects_are_rejected_with_the_reason(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": "x"}\n{"a": true}\nnonsense\n[1]\n\n')
    rows, malformed = read(tmp_path / "a.jsonl")
    assert rows.to_dict(as_series=False) == {"a": ["1", "true"], "b": ["x", None]}
    assert [row for row, _, _ in malformed] == [3, 4]


def test_other_files_in_a_folder_are_ignored(tmp_path: Path):
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert [file.uri.rpartition("/")[2] for file, _ in reading.source_files(str(tmp_path))] == ["a.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("\n1,2\n", "names no column|empty"),
        (",\n1,2\n", "names no column"),
        ("a,b,a\n1,2,3\n", r"two columns have the same name: .*\(a\)"),
    ],
    ids=["empty file", "blank line", "no names", "repeated column"],
)
def test_a_csv_file_without_a_usable_header_is_refused_in_a_sentence(tmp_path: Path, content: str, words: str):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=f"(?i){words}"):
        read(tmp_path / "a.csv")


def test_csv_columns_without_a_name_and_names_with_a_line_break_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_text(',"b\nc",x,\n0,1,2,\n')
    rows, _ = read(tmp_path / "a.csv")
    assert rows.to_dict(as_series=False) == {"unnamed_1": ["0"], "b\nc": ["1"], "x": ["2"], "unnamed_4": [""]}


def test_decimal_commas_are_read_in_files_separated_by_semicolons(tmp_path: Path):
    numbers = ["1,5", "-1.234,56", "1.5", "7", "1,2,3", "a,5", ""]
    (tmp_path / "a.csv").write_text("x;y\n" + "".join(f"{number};0\n" for number in numbers))
    rows, _ = read(tmp_path / "a.csv")
    assert rows["x"].to_list() == ["1.5", "-1234.56", "1.5", "7", "1,2,3", "a,5", ""]
    (tmp_path / "a.csv").write_text('x,y\n"1,5",0\n')  # here it might as well separate thousands
    assert read(tmp_path / "a.csv")[0]["x"].to_list() == ["1,5"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"no parquet", "not readable as Parquet"),
        ("a.csv", "a,b\nä,1\n".encode("latin-1"), "Save it as UTF-8"),
        ("a.csv", b"a\n" + b"x\n" * 9000 + b"\xe4\n", "Save it as UTF-8"),
        ("a.csv.gz", b"a,b\n1,2\n", r"cannot read: .*a.csv.gz.*that the file is complete"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 999)[:-20], "that the file is complete"),
    ],
    ids=["no Parquet", "Latin-1", "Latin-1 further down", "not compressed", "cut off"],
)
def test_a_file_that_does_not_have_the_format_of_its_name_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, words: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, StorageError), match=f"(?i){words}"):
        read(tmp_path / name)


def test_a_parquet_file_with_two_columns_of_the_same_name_is_refused(tmp_path: Path):
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"(?i)two columns have the same name: .*\(x\)"):
        read(tmp_path / "a.parquet")


def test_missing_data_is_refused_with_its_uri(tmp_path: Path):
    with pytest.raises(StorageError, match=r"does not exist.*missing"):
        reading.source_files(str(tmp_path / "missing.csv"))
