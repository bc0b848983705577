"""Read JSON lines in batches of rows, with all values as text."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import polars as pl

from rayworks.data import text_files
from rayworks.data.batches import BATCH_ROWS, Batch


def batches(uri: str, encoding: str, sampled: int | None = None) -> Iterator[Batch]:
    """Yield the objects of a file, at most ``BATCH_ROWS`` at a time. Lines that are no objects are malformed.

    Args:
        uri: The file.
        encoding: Of its text.
        sampled: Yield only about so many rows to twice as many, spread over the file. Their numbers mean nothing.

    Raises:
        StorageError: The file cannot be read.
        DataError: It is not text of this encoding.
    """
    row, spread = 1, text_files.spread(uri, encoding, sampled) if sampled else []
    for block in spread or text_files.blocks(uri, encoding):
        lines = [line for line in block.splitlines() if line.strip()]
        if sampled:
            lines = lines[:: max(1, len(lines) * len(spread) // sampled)]
        for start in range(0, len(lines), BATCH_ROWS):
            batch = _batch(lines[start : start + BATCH_ROWS], row)
            yield batch
            row += batch.records


def column_names(uri: str, encoding: str) -> list[str]:
    """Return the names in the first objects of a file; raises as :func:`batches` does."""
    first = next(text_files.blocks(uri, encoding, text_files.FIRST_BYTES), b"")
    return _batch([line for line in first.splitlines() if line.strip()], 1).rows.columns


def _batch(lines: list[bytes], first_row: int) -> Batch:
    records: list[dict[str, str | None]] = []
    malformed: list[tuple[int, str, str]] = []
    for row, line in enumerate(lines, start=first_row):
        text = line.decode()
        record = _record(text)
        if isinstance(record, str):
            malformed.append((row, text, record))
        else:
            records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return Batch(pl.DataFrame(columns, dict.fromkeys(names, pl.String)), first_row, len(lines), malformed)


def _record(line: str) -> dict[str, str | None] | str:
    """The values of a line as text, or the reason why it cannot be used."""
    try:
        parsed = loads(line)
    except RepeatedKeyError as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(parsed, dict):
        return "not a JSON object"
    if not parsed:
        return "an object without values"
    record = {key: _as_text(value) for key, value in cast(dict[str, Any], parsed).items()}
    if "\\u" in line:
        try:
            "".join(text for pair in record.items() for text in pair if text).encode()
        except UnicodeEncodeError as error:
            return f"not text: \\u{ord(error.object[error.start]):x} is half of a character"
    return record


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # What JSON's encoder does for these, in much less time.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


class RepeatedKeyError(ValueError):
    """An object has two values of one key."""


def loads(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        RepeatedKeyError: An object has a key twice. Python would take the last value.
        ValueError: It is not JSON.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RepeatedKeyError(f"a key occurs twice: {repeated}")
    return values
