"""Lines of JSON are rows of text; a line that is no object, or not a clear one, is rejected with the reason."""

from pathlib import Path

import polars as pl

from rayworks.data import json_lines


def read(folder: Path) -> tuple[pl.DataFrame, list[tuple[int, str, str]]]:
    batches = list(json_lines.batches(str(folder / "a.jsonl"), "utf-8"))
    assert all(batch.records == len(batch.rows) + len(batch.malformed) for batch in batches), "a record is in no count"
    rows = pl.concat([batch.rows for batch in batches], how="diagonal")
    return rows, [line for batch in batches for line in batch.malformed]


def test_json_lines_that_are_not_objects_are_rejected_with_the_reason(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": "x"}\n{"a": true}\nnonsense\n[1]\n\n')
    rows, malformed = read(tmp_path)
    assert rows.to_dict(as_series=False) == {"a": ["1", "true"], "b": ["x", None]}
    assert [row for row, _, _ in malformed] == [3, 4]


def test_json_objects_without_values_are_rejected_with_the_reason(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("{}\n{ }\n")
    rows, malformed = read(tmp_path)
    assert rows.is_empty()
    assert malformed == [(1, "{}", "an object without values"), (2, "{ }", "an object without values")]


def test_json_in_which_a_key_occurs_twice_is_rejected_with_the_key(tmp_path: Path):
    lines = ['{"a": 1, "b": 2, "a": 3}', '{"a": {"b": 1, "b": 1}}', '{"a": {"b": 1}, "b": 2}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows, malformed = read(tmp_path)
    assert rows["b"].to_list() == ["2"]
    assert [(row, reason) for row, _, reason in malformed] == [
        (1, "a key occurs twice: a"),
        (2, "a key occurs twice: b"),
    ]


def test_json_with_half_a_character_is_rejected_with_the_reason(tmp_path: Path):
    lines = [r'{"a": "\ud83d"}', r'{"\ude00": 1}', r'{"a": {"b": "\ud83d"}}', r'{"a": "\ud83d\ude00"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows, malformed = read(tmp_path)
    assert rows["a"].to_list() == ["😀"]
    assert [reason.partition(":")[0] for _, _, reason in malformed] == ["not text"] * 3


def test_json_that_is_nested_too_deeply_is_rejected(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + "[" * 100_000)
    assert [row for row, _, _ in read(tmp_path)[1]] == [2]
