"""Read CSV in batches of rows, with all values as text.

A record is a line. It goes on in the next lines only if a quoted value is open at its end, closes there right before a
delimiter or a line end, and the record then has as many values as the header. Otherwise a quote is missing, and only
the line of that quote is lost: the parser alone would take all lines up to the next quote for one value.
"""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from typing import Any, cast

import polars as pl

from rayworks.data import decimal_commas, text_files
from rayworks.data.batches import Batch, check_names, unreadable
from rayworks.errors import DataError

LONGEST_RECORD = 8 << 20  # bytes in which a quote must close
LINE = re.compile(rb"[^\r\n]*+(?:\r\n?|\n)")
NOT_CLOSED = "a quote in this line does not close"
ESCAPED = (
    "a quoted value goes on after a quote with a backslash before it: double the quotes in values, "
    "in Spark by .option('escape', '\"')"
)
LIKE_ROWS = "a quoted value holds lines that look like rows: a quote is missing"


@dataclass(frozen=True)
class _Header:
    names: list[str]
    delimiter: str
    bytes: int
    """Length of the header in the text."""


@dataclass(frozen=True)
class _Patterns:
    """What records look like, for one delimiter and number of columns."""

    delimiter: bytes
    columns: int
    records: re.Pattern[bytes]
    """As many lines as there are whose quotes close within them, and then a record with a value that spans lines."""
    open_quote: re.Pattern[bytes]
    """A record whose last value is still open at the end of the text."""
    prose: re.Pattern[bytes]
    """A delimiter as in a sentence: before a blank or a line end."""
    escaped: re.Pattern[bytes]
    """A quote that a backslash seems to escape, as Spark writes it. The parser would end the value there."""


def batches(uri: str, encoding: str, sampled: int | None = None) -> Iterator[Batch]:
    """Yield the rows of a file, some megabytes at a time. Lines with another number of values are malformed.

    Args:
        uri: The file.
        encoding: Of its text.
        sampled: Yield only about so many rows to twice as many, spread over the file. Their numbers mean nothing.

    Raises:
        StorageError: The file cannot be read.
        DataError: It is not text of this encoding, or has no usable header.
    """
    import pyarrow as pa

    spread = text_files.spread(uri, encoding, sampled) if sampled else []
    blocks = iter(spread) if sampled else text_files.blocks(uri, encoding)
    first = next(blocks, b"")
    header = _header(first, uri)
    patterns = _patterns(header.delimiter.encode(), len(header.names))
    row, rest, numbers = 1, b"", decimal_commas.Numbers()
    for block in chain([first[header.bytes :]], blocks, [None]):
        text = rest + (block or b"")
        try:
            batch, rest = _batch(text, row, header, patterns, is_last=block is None)
        except pa.ArrowInvalid as error:
            raise unreadable(uri, "CSV", error) from error
        if header.delimiter == ";":
            batch.rows = numbers.as_points(batch.rows)
            batch.doubts = numbers.doubts
        if batch.records:
            yield batch.thinned(sampled // len(spread)) if sampled else batch
        row += batch.records


def column_names(uri: str, encoding: str) -> list[str]:
    """Return the names in the header of a file; raises as :func:`batches` does."""
    return _header(next(text_files.blocks(uri, encoding, text_files.FIRST_BYTES), b""), uri).names


def _header(text: bytes, uri: str) -> _Header:
    """The column names, and the delimiter: what a first line ``sep=;`` says, or whichever of ``, ; tab |`` is most
    frequent in the first line."""
    lines = StringIO(text.decode(), newline="")
    line = lines.readline()
    if declared := re.fullmatch(r"sep=([,;\t|])\s*", line):
        line = lines.readline()
    delimiter = declared[1] if declared else max(",;\t|", key=re.sub(r'"(?:[^"]|"")*"', "", line).count)
    try:  # a quoted name may hold a line break
        names = next(csv.reader(chain([line], lines), delimiter=delimiter, strict=True), []) if line else []
    except csv.Error as error:
        raise unreadable(uri, "CSV", error) from error
    if not any(names):
        if not text.strip():
            remedy = "Delete it, or write it again"
            raise DataError("the CSV file has no usable header", where=uri, detail="the file is empty", remedy=remedy)
        reason, remedy = "its first line names no column", "Give each column a name"
        raise DataError("the CSV file has no usable header", where=uri, detail=reason, remedy=remedy)
    named = [name or f"unnamed_{place}" for place, name in enumerate(names, start=1)]
    check_names(named, uri)
    return _Header(named, delimiter, len(text.decode()[: lines.tell()].encode()))


def _patterns(delimiter: bytes, columns: int) -> _Patterns:
    # Atomic groups: repeated groups that are possessive match wrongly before Python 3.11.5 (python/cpython#106052).
    mark, line_end = re.escape(delimiter), rb"(?:\r\n?|\n)"
    plain = rb'[^"%b\r\n][^%b\r\n]*+' % (mark, mark)
    after_quote = rb'(?:(?<!\\")[^%b\r\n]*+|(?=[%b\r\n]))' % (mark, mark)
    within_line = rb'(?:"[^"\r\n]*+(?>(?:""[^"\r\n]*+)*)"%b|%b|)' % (after_quote, plain)
    quoted = rb'"[^"]*+(?>(?:""[^"]*+)*)'
    field = rb'(?:%b"(?=[%b\r\n])|%b|)' % (quoted, mark, plain)
    return _Patterns(
        delimiter,
        columns,
        records=re.compile(
            rb"((?>(?:%b(?>(?:%b%b)*)%b)*))" % (within_line, mark, within_line, line_end)
            + rb"(?>(%b(?:%b%b){%d}%b)?)" % (field, mark, field, columns - 1, line_end)
        ),
        open_quote=re.compile(rb"(?>(?:%b%b){0,%d})%b\Z" % (field, mark, columns - 1, quoted)),
        prose=re.compile(rb"%b(?=\s)" % mark),
        escaped=re.compile(rb'\\"(?=[^"%b\r\n])' % mark),
    )


def _batch(text: bytes, row: int, header: _Header, patterns: _Patterns, *, is_last: bool) -> tuple[Batch, bytes]:
    """The records of ``text``, and the rest of it whose last value is not closed yet."""
    lines = text_files.lines_in(text)
    if not patterns.escaped.search(text):
        rows, malformed = _parsed(text, row, header)
        if len(rows) + len(malformed) == lines and patterns.records.fullmatch(_last_line(text)):
            return Batch(rows, row, lines, malformed), b""  # as many records as lines: each is one line
    records = _Records(patterns, row)
    rest = records.split(text, is_last=is_last)
    rows, malformed = _parsed(b"".join(records.sound), 0, header)
    if malformed:  # among the sound records
        numbers = sorted(set(range(row, row + records.count)) - {number for number, _, _ in records.malformed})
        malformed = [(numbers[place], line, reason) for place, line, reason in malformed]
    return Batch(rows, row, records.count, sorted(records.malformed + malformed)), rest


def _last_line(text: bytes) -> bytes:
    stripped = text.rstrip(b"\r\n")
    return stripped[max(stripped.rfind(b"\n"), stripped.rfind(b"\r")) + 1 :] + b"\n"


def _parsed(text: bytes, row: int, header: _Header) -> tuple[pl.DataFrame, list[tuple[int, str, str]]]:
    """The rows of ``text``, and the lines with another number of values. The first record has the number ``row``."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    malformed: list[tuple[int, str, str]] = []

    def reject(bad: Any) -> str:
        reason = f"the line has {bad.actual_columns} values instead of {bad.expected_columns}"
        malformed.append((row + bad.number - 1, bad.text, reason))
        return "skip"

    if not text.strip(b"\r\n"):
        return pl.DataFrame(schema=dict.fromkeys(header.names, pl.String)), malformed
    if text.startswith(codecs.BOM_UTF8):  # a value: Arrow drops one
        text = codecs.BOM_UTF8 + text
    read = arrow_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=header.names)
    parse = arrow_csv.ParseOptions(delimiter=header.delimiter, newlines_in_values=True, invalid_row_handler=reject)
    types = dict.fromkeys(header.names, pa.string())
    convert = arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    table = arrow_csv.read_csv(pa.BufferReader(text), read, parse, convert)
    return cast(pl.DataFrame, pl.from_arrow(table)), malformed


class _Records:
    """The records of a text some of whose values span lines."""

    def __init__(self, patterns: _Patterns, row: int) -> None:
        self._patterns, self._row = patterns, row
        self.sound: list[bytes] = []
        self.malformed: list[tuple[int, str, str]] = []
        self.count = 0

    def split(self, text: bytes, *, is_last: bool) -> bytes:
        """Add the records of ``text``. Return the rest of it whose last value is not closed yet."""
        start = position = 0
        while position < len(text):
            found = cast(re.Match[bytes], self._patterns.records.match(text, position))
            lines, record = found.groups()
            self.count += text_files.lines_in(lines) if lines else 0
            position = found.end(1)
            if position == len(text):
                break
            if record and not self._looks_like_rows(record):
                self.count += 1
                position = found.end()
                continue
            self.sound.append(text[start:position])
            if not record and not is_last and self._may_close(text, position):
                return text[position:]
            end = found.end() if record else cast(re.Match[bytes], LINE.match(text, position)).end()
            for line in text[position:end].splitlines():
                is_escaped = self._patterns.escaped.search(line)
                self._reject(line, LIKE_ROWS if record else ESCAPED if is_escaped else NOT_CLOSED)
            start = position = end
        self.sound.append(text[start:])
        return b""

    def _may_close(self, text: bytes, position: int) -> bool:
        open_quote = self._patterns.open_quote.match(text, position)
        return open_quote is not None and len(text) - position < LONGEST_RECORD

    def _looks_like_rows(self, record: bytes) -> bool:
        """Whether each line of a record has the delimiters of a whole row, and none of them as in a sentence."""
        delimiter, columns = self._patterns.delimiter, self._patterns.columns
        return (
            columns > 2
            and record.count(delimiter) >= 2 * (columns - 1)
            and not self._patterns.prose.search(record)
            and all(line.count(delimiter) == columns - 1 for line in record.splitlines())
        )

    def _reject(self, line: bytes, reason: str) -> None:
        self.malformed.append((self._row + self.count, line.decode(), reason))
        self.count += 1
