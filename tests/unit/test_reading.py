"""Files are read in batches of rows, and whatever is not a row is rejected with the reason. No Ray."""

import bz2
import datetime as dt
import gzip
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rayworks import storage
from rayworks.data import reading
from rayworks.errors import DataError, StorageError
from rayworks.params import ProcessOptions


def read(
    uri: Path | str, encoding: str = "utf-8", columns: list[str] | None = None
) -> tuple[pl.DataFrame, list[tuple[int, str, str]]]:
    chunks = reading.chunks(reading.source_files(str(uri)), encoding)
    parts = [batch for chunk in chunks for batch in reading.batches(chunk, columns)]
    assert all(part.records == len(part.rows) + len(part.malformed) for part in parts), "a record is in no count"
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


def test_other_files_in_a_folder_are_ignored(tmp_path: Path):
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert [file.path for file in reading.source_files(str(tmp_path))] == ["a.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("\n1,2\n", "names no column|empty"),
        (",\n1,2\n", "names no column"),
        ("unnamed_2,\n1,2\n", r"two columns have the same name: .*\(unnamed_2\)"),
        ("a,b,a\n1,2,3\n", r"two columns have the same name: .*\(a\)"),
    ],
    ids=["empty file", "blank line", "no names", "a name that is given", "repeated column"],
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
        ("a.csv", "a,b\nä,1\n".encode("latin-1"), r"not utf-8 text.*line 2.*process\.encoding"),
        ("a.csv", b"a\n" + b"x\n" * 9000 + b"\xe4\n", r"line 9002.*process\.encoding"),
        ("a.jsonl", '{"a": "Mülheim"}'.encode("latin-1"), r"not utf-8 text.*line 1.*process\.encoding"),
        ("a.csv", b"PK\x03\x04", "a ZIP archive or a spreadsheet.*Unpack it"),
        ("a.csv", b"PAR1", "it is Parquet.*true ending"),
        ("a.csv", b'"a,b\n1,2\n', "not readable as CSV"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 999)[:-20], "that the file is complete"),
    ],
    ids=[
        "no Parquet",
        "Latin-1",
        "Latin-1 further down",
        "Latin-1 JSON",
        "ZIP",
        "Parquet named CSV",
        "open quote in the header",
        "cut off",
    ],
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


@pytest.mark.parametrize("column", ["*", "^a.*$", "^$"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "column=1/a.csv"])
def test_a_column_whose_name_is_a_pattern_to_polars_is_refused(tmp_path: Path, name: str, column: str):
    path = tmp_path / name.replace("column", column)
    path.parent.mkdir(exist_ok=True)
    frame = pl.DataFrame({"ab": [1], "y" if "=" in name else column: [2]})
    write = {".csv": pl.DataFrame.write_csv, ".parquet": pl.DataFrame.write_parquet}
    write.get(path.suffix, pl.DataFrame.write_ndjson)(frame, path)
    with pytest.raises(DataError, match=r"(?i)a name that means a pattern of names: .*cannot be names"):
        read(tmp_path)


def test_missing_data_is_refused_with_its_uri(tmp_path: Path):
    with pytest.raises(StorageError, match=r"does not exist.*missing"):
        reading.source_files(str(tmp_path / "missing.csv"))


def table_with(lines: dict[int, str], end: str = "\n") -> bytes:
    """A CSV of 300 lines after its header, some of them replaced."""
    usual = {i: f"{i},pipe {i},{i * 31 % 17},{i % 2}" for i in range(300)}
    return end.join(["id,desc,x,y", *({**usual, **lines}).values(), ""]).encode()


@pytest.mark.parametrize("block_bytes", [8 << 20, 300], ids=["one block", "many blocks"])
@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        ({100: '100,"5 inch pipe,6,0'}, {"does not close": 1}),
        ({299: '299,pipe,6,"0'}, {"does not close": 1}),
        ({100: '100,"5 inch pipe,6,0', 150: '150,"ok",6,0'}, {"does not close": 1}),
        ({100: '100,"5 inch pipe,6,0', 150: '150,"",6,0'}, {"does not close": 1}),
        ({100: '100,"5 inch pipe,6,0', 150: '150,"7 inch,6,0'}, {"does not close": 2}),
        ({100: '100,"5 inch pipe,6,0', 150: "150,6", 299: "299"}, {"does not close": 1, "values instead": 2}),
        ({100: '100,"5 inch pipe,6,0', 103: '103,7 inch",6,0'}, {"look like rows": 4}),
        ({100: '100,5" pipe,6,0', 101: '101,"a "b" c",6,0'}, {}),
        # As Spark writes quotes. The parser would end the value at them, and read 5\ pipe".
        ({100: r'100,"5\" pipe",6,0', 299: r'299,"5\" pipe, new",6,0'}, {"a backslash before it": 2}),
        (
            {100: r'100,"5\" pipe",6,0', 101: r'101,"a\", 6",6,0', 102: '102,"5 inch,6,0'},
            {"backslash": 1, "values instead": 1, "close": 1},
        ),
        ({100: r'100,"C:\",6,0', 101: r'101,"a\""b",6,0', 102: r"102,{\"a\": 1},6,0"}, {}),
    ],
)
def test_a_quote_that_does_not_close_costs_its_own_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: dict[int, str], reasons: dict[str, int], block_bytes: int
):
    from rayworks.data import text_files

    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    (tmp_path / "a.csv").write_bytes(table_with(lines))
    rows, malformed = read(tmp_path / "a.csv")
    assert len(rows) + len(malformed) == 300
    assert Counter(next(part for part in reasons if part in reason) for _, _, reason in malformed) == reasons
    assert [line for _, line, _ in malformed] == [
        table_with(lines).decode().splitlines()[number] for number, _, _ in malformed
    ]


@pytest.mark.parametrize("block_bytes", [8 << 20, 100], ids=["one block", "many blocks"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Mac"])
def test_quoted_values_may_span_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block_bytes: int):
    from rayworks.data import text_files

    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    text = f'Dear "Sir",{end}{end}I write, as you know, to you.'
    quoted = text.replace('"', '""')
    (tmp_path / "a.csv").write_bytes(table_with({7: f'7,"{quoted}",6,0', 299: f'"299","{quoted}",6,0'}, end))
    rows, malformed = read(tmp_path / "a.csv")
    assert (len(rows), malformed) == (300, [])
    assert rows["desc"][7] == rows["desc"][299] == text


def test_a_quote_that_does_not_close_within_the_longest_record_costs_its_own_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from rayworks.data import csv_files, text_files

    monkeypatch.setattr(text_files, "BLOCK_BYTES", 500)
    monkeypatch.setattr(csv_files, "LONGEST_RECORD", 1000)
    (tmp_path / "a.csv").write_bytes(table_with({5: '5,"open,6,0'}))
    rows, malformed = read(tmp_path / "a.csv")
    assert (len(rows), [number for number, _, _ in malformed]) == (299, [6])


def test_rows_keep_their_numbers_beside_malformed_lines(tmp_path: Path):
    (tmp_path / "a.csv").write_text('a,b\n1,x\n2\n3,"x\n4,x\n')
    [chunk] = reading.chunks(reading.source_files(str(tmp_path / "a.csv")))
    batches = list(reading.batches(chunk))
    assert [number for batch in batches for number in batch.numbers] == [1, 4]
    assert [number for batch in batches for number, _, _ in batch.malformed] == [2, 3]


def test_the_first_line_may_name_the_delimiter(tmp_path: Path):
    (tmp_path / "a.csv").write_text("sep=;\na,b;c\n1;1,5\n")
    assert read(tmp_path / "a.csv")[0].to_dict(as_series=False) == {"a,b": ["1"], "c": ["1.5"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", gzip.compress(b"a,b\n1,2\n")),
        ("a.csv", bz2.compress(b"a,b\n1,2\n")),
        ("a.csv.gz", b"a,b\n1,2\n"),
        ("a.jsonl", gzip.compress(b'{"a": 1, "b": 2}')),
    ],
    ids=["gzip", "bzip2", "not compressed", "JSON lines"],
)
def test_compression_is_recognized_by_the_content(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name)[0].to_dict(as_series=False) == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8"])
def test_text_files_are_read_in_the_encoding_that_was_named(tmp_path: Path, encoding: str):
    (tmp_path / "a.csv").write_bytes("city,y\nMülheim,1\n".encode(encoding))
    (tmp_path / "b.jsonl").write_bytes(json.dumps({"city": "Mülheim", "y": 1}, ensure_ascii=False).encode(encoding))
    rows, _ = read(tmp_path, encoding)
    assert rows.to_dict(as_series=False) == {"city": ["Mülheim"] * 2, "y": ["1"] * 2}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, encoding: str):
    mark = "" if encoding == "utf-16" else "\ufeff"  # its encoder writes one
    (tmp_path / "a.csv").write_bytes(f"{mark}city,y\n\ufeffMülheim,1\n".encode(encoding))
    rows, _ = read(tmp_path, encoding)
    assert rows.to_dict(as_series=False) == {"city": ["\ufeffMülheim"], "y": ["1"]}


@pytest.mark.parametrize("encoding", ["no-such", "base64", ""])
def test_an_unknown_encoding_is_refused_with_those_that_are_common(encoding: str):
    with pytest.raises(ValidationError, match=f"{encoding} is not an encoding of text; common ones are utf-8"):
        ProcessOptions(encoding=encoding)


def test_parquet_is_read_with_types_that_polars_does_not_have(tmp_path: Path):
    wide, zone = pa.decimal256(60, 4), pa.timestamp("us", "+05:30")
    table = pa.table(
        {
            "wide": pa.array(["0.3", "-1.25", None]).cast(wide),
            "zone": pa.array([0, 1_000_000, None], zone),
            "list": pa.array([[0], None, []], pa.list_(zone)),
            "large list": pa.nulls(3, pa.large_list(wide)),
            "map": pa.nulls(3, pa.map_(zone, wide)),
            "struct": pa.nulls(3, pa.struct([("wide", wide), ("zone", zone)])),
            "a*b": [1, 2, 3],
            "^w.*": [4, 5, 6],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, _ = read(tmp_path / "a.parquet")
    assert rows["wide"].to_list() == [0.3, -1.25, None]
    assert rows["zone"].dt.epoch("s").to_list() == [0, 1, None]
    assert rows.columns == table.column_names
    assert read(tmp_path / "a.parquet", columns=["^w.*", "a*b"])[0].columns == ["^w.*", "a*b"]


def test_parquet_of_extension_types_is_read_as_what_it_stores(tmp_path: Path):
    texts = pa.array(['{"a": 1}', None])
    json_type = pa.ExtensionArray.from_storage(pa.json_(), texts)
    table = pa.table(
        {
            "json": json_type,
            "nested": pa.StructArray.from_arrays([json_type], ["json"]),
            "list": pa.ListArray.from_arrays([0, 1, 2], json_type),
            "truth": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, _ = read(tmp_path / "a.parquet")
    assert rows["json"].to_list() == rows["nested"].struct["json"].to_list() == ['{"a": 1}', None]
    assert rows["list"].to_list() == [['{"a": 1}'], [None]]
    assert rows["truth"].to_list() == [0, 1]
    assert rows.dtypes == [pl.String, pl.Struct({"json": pl.String}), pl.List(pl.String), pl.Int8]


def test_timestamps_that_spark_wrote_are_read_in_all_years(tmp_path: Path):
    times = [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1), dt.datetime(2020, 1, 1, 12)]
    pq.write_table(pa.table({"t": times}), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    assert read(tmp_path / "a.parquet")[0]["t"].to_list() == times


def test_values_that_folders_name_are_columns(tmp_path: Path):
    for day in ("2022-01-01", "2022-01-02", "__HIVE_DEFAULT_PARTITION__"):
        folder = tmp_path / f"day={day}" / "city=S%C3%A3o Paulo"
        folder.mkdir(parents=True)
        pl.DataFrame({"x": [1, 2]}).write_parquet(folder / "part.parquet")
    rows, _ = read(tmp_path)
    assert rows["day"].to_list() == ["2022-01-01"] * 2 + ["2022-01-02"] * 2 + [None] * 2
    assert rows["city"].unique().to_list() == ["São Paulo"]
    assert read(tmp_path, columns=["day"])[0].equals(rows.select("day"))
    assert read(f"{tmp_path}/day=*/*/*.parquet")[0].equals(rows)
    first = rows.filter(pl.col("day") == "2022-01-01")
    for uri in ("day=2022-01-01", "day=2022-01-01/*/*.parquet", "day=2022-01-01/city=S%C3%A3o Paulo/part.parquet"):
        assert read(tmp_path / uri)[0].select(rows.columns).equals(first)


def test_several_folders_of_partitions_are_read_like_a_glob_of_them(place: str):
    for year in range(2020, 2023):
        storage.write_bytes(storage.join(place, "a=0", "raw", f"year={year}", "a.csv"), b"x,y\n1,2\n")
    listed = reading.of_all([storage.join(place, "a=0", "raw", f"year={year}") for year in (2021, 2022)])
    batches = [batch for chunk in reading.chunks(listed) for batch in reading.batches(chunk)]
    assert [batch.rows.to_dicts() for batch in batches] == [
        [{"x": "1", "y": "2", "year": year}] for year in ("2021", "2022")
    ]
    assert [file.path for file in listed] == ["a.csv", "a.csv"]


@pytest.mark.parametrize(
    ("log", "table"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Apache Hudi"),
        ("metadata/00001-1a2b.metadata.json", "Apache Iceberg"),
    ],
)
@pytest.mark.parametrize(
    "uri", ["lake", "lake/table", "lake/table/data/*.parquet", "lake/table/**/*.parquet", "lake/table/data/a.parquet"]
)
def test_a_table_whose_log_says_which_rows_count_is_refused(tmp_path: Path, log: str, table: str, uri: str):
    for path in (log, "data/a.parquet"):
        (tmp_path / "lake" / "table" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lake" / "table" / path).write_text("{}")
    with pytest.raises(DataError, match=f"a table of {table}.*Export"):
        reading.source_files(str(tmp_path / uri))


def test_files_without_a_byte_have_no_rows(tmp_path: Path):
    for name in ("1.csv", "2.parquet", "3.jsonl"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"data are empty.*no file has a byte"):
        reading.source_files(str(tmp_path))
    (tmp_path / "4.csv").write_text("a,b\n1,2\n")
    assert len(read(tmp_path)[0]) == 1


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "part.csv").write_text("a,b\n1,2\n")
    for uri in (tmp_path, f"{tmp_path}/*/part.csv"):
        assert [chunk.path for chunk in reading.chunks(reading.source_files(str(uri)))] == [
            "0/part.csv",
            "1/part.csv",
            "2/part.csv",
        ]
