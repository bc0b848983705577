"""Whether a point is a decimal point or separates thousands is decided once for a file, and doubts are told. No Ray."""

from pathlib import Path

import pytest

from rayworks.data import decimal_commas, reading, text_files
from rayworks.data.batches import Doubt

THOUSANDS, DECIMALS = decimal_commas.THOUSANDS, decimal_commas.DECIMALS


def read(folder: Path, columns: dict[str, list[str]], rest: dict[str, list[str]] | None = None):
    """Write columns, and more rows in a second block. Return the columns as they are read, and the last doubts."""
    parts = [[";".join(row) + "\n" for row in zip(*part.values(), strict=True)] for part in (columns, rest or columns)]
    text = ";".join(columns) + "\n" + "".join(parts[0] + (parts[1] if rest else []))
    (folder / "a.csv").write_text(text)
    [chunk] = reading.chunks(reading.source_files(str(folder / "a.csv")))
    batches = list(reading.batches(chunk))
    assert len(batches) == (2 if rest else 1)
    read_back = {name: [value for batch in batches for value in batch.rows[name]] for name in columns}
    return read_back, batches[-1].doubts


def test_points_separate_thousands_in_a_file_with_decimal_commas(tmp_path: Path):
    columns, doubts = read(
        tmp_path,
        {
            "residents": ["999", "1.234", "12.500", "n.a."],
            "total": ["-1.234", " 1.234.567 ", "1", ""],
            "price": ["1.234,5", "1.234", "7", "+0,5"],
            "area": ["7,5", "1", "2", "3"],
        },
    )
    assert columns == {
        "residents": ["999", "1234", "12500", "n.a."],
        "total": ["-1234", " 1234567 ", "1", ""],
        "price": ["1234.5", "1234", "7", "+0.5"],
        "area": ["7.5", "1", "2", "3"],
    }
    assert doubts == {"residents": THOUSANDS}, "the other columns show themselves what their points are"


@pytest.mark.parametrize("values", [["1.234", "1.5"], ["1.234", "0.125"], ["1.234", "2.5e3"], ["1.234", ".5"]])
def test_points_of_a_column_with_other_decimals_stay_decimal_points(tmp_path: Path, values: list[str]):
    columns, doubts = read(tmp_path, {"x": values, "area": ["7,5", "8,5"]})
    assert columns["x"] == values
    assert doubts == {"x": DECIMALS}
    assert read(tmp_path, {"x": values, "area": ["7", "8"]}) == ({"x": values, "area": ["7", "8"]}, {})


def test_what_only_looks_like_numbers_with_points_stays_as_it_is(tmp_path: Path):
    written = {
        "address": ["192.168.100.200", "10.0.0.1"],
        "date": ["31.12.2024", "1.1.2025"],
        "name": ["St. Ives", "a.123"],
        "area": ["7", "8"],
    }
    assert read(tmp_path, written) == (written, {})


@pytest.mark.parametrize(
    ("values", "as_read", "doubt"),
    [
        (["999", "1.234", "1.234.567"], ["999", "1234", "1234567"], None),
        (["999", "1.234", "12.500"], ["999", "1.234", "12.500"], DECIMALS),
    ],
    ids=["two groups", "one group"],
)
def test_without_decimal_commas_only_numbers_with_two_groups_show_what_a_point_is(
    tmp_path: Path, values: list[str], as_read: list[str], doubt: Doubt | None
):
    columns, doubts = read(tmp_path, {"x": values, "y": ["a", "b", "c"]})
    assert columns["x"] == as_read
    assert doubts.get("x") == doubt


@pytest.mark.parametrize(
    ("first", "then", "as_read", "doubts"),
    [
        ({"x": ["9", "8"], "y": ["7,5", "1"]}, {"x": ["1.234"], "y": ["1"]}, ["9", "8", "1234"], {"x": THOUSANDS}),
        ({"x": ["1.234", "8"], "y": ["7,5", "1"]}, {"x": ["1,5"], "y": ["1"]}, ["1234", "8", "1.5"], {}),
        (
            {"x": ["1.234", "8"], "y": ["7", "1"]},
            {"x": ["9.876"], "y": ["7,5"]},
            ["1.234", "8", "9.876"],
            {"x": DECIMALS},
        ),
        ({"x": ["1.234", "8.5"], "y": ["7", "1"]}, {"x": ["9.8"], "y": ["7"]}, ["1.234", "8.5", "9.8"], {}),
    ],
    ids=["points come later", "certain later", "commas come later", "decimal points"],
)
def test_the_first_rows_decide_for_the_whole_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, list[str]],
    then: dict[str, list[str]],
    as_read: list[str],
    doubts: dict[str, Doubt],
):
    header = len("x;y\n")
    lines = sum(len(";".join(row)) + 1 for row in zip(*first.values(), strict=True))
    monkeypatch.setattr(text_files, "BLOCK_BYTES", header + lines)
    assert read(tmp_path, first, then)[0]["x"] == as_read
    assert read(tmp_path, first, then)[1] == doubts
