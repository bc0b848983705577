"""The text of a file as UTF-8, in blocks of whole lines: decompressed by its content, decoded by its encoding."""

import codecs
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rayworks import storage
from rayworks.errors import DataError

if TYPE_CHECKING:
    from pyarrow.lib import NativeFile

BLOCK_BYTES = 8 << 20
FIRST_BYTES = 64 << 10  # in which the names of columns are
SAMPLED_BYTES, SAMPLED_BLOCKS = 2 << 20, 10  # many times a long record, and still parsed in a moment
COMPRESSIONS = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh91AY&SY": "bz2", b"\x04\x22\x4d\x18": "lz4"}
NO_TEXT = {b"PK\x03\x04": "a ZIP archive or a spreadsheet", b"\xfd7zXZ\x00": "compressed by xz", b"PAR1": "Parquet"}


def blocks(uri: str, encoding: str, block_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the text of a file as UTF-8 without a byte order mark, about ``block_bytes`` (``BLOCK_BYTES`` by default)
    at a time. Each block ends with a line end.

    Raises:
        StorageError: The file cannot be read.
        DataError: It is not text, or its bytes are not of this encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    rest, lines, mark = b"", 0, "\ufeff"  # which only the decoders of utf-16 and utf-8-sig drop
    with _open(uri) as stream:
        while raw := stream.read(block_bytes or BLOCK_BYTES):
            try:
                text = decoder.decode(raw).removeprefix(mark)
            except UnicodeDecodeError as error:
                raise _not_decoded(uri, encoding, lines, error) from error
            mark = "" if text else mark
            lines += text.count("\n")
            block = rest + text.encode()
            end = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
            rest = block[end:]
            if end:
                yield block[:end]
    try:
        rest += decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        raise _not_decoded(uri, encoding, lines, error) from error
    if rest:
        yield rest + b"\n"


def spread(uri: str, encoding: str, lines: int) -> list[bytes]:
    """Return blocks of a text that are spread evenly over it, the first and the last among them; a text of few blocks
    whole, as one. Passes over the file, with no more than these in memory. Raises as :func:`blocks` does.

    Args:
        uri: The file.
        encoding: Of its text.
        lines: How many lines the blocks have at least, if the text has as many.
    """
    kept: list[tuple[bytes, int]] = []
    number, step, last = 0, 1, b""
    for number, last in enumerate(blocks(uri, encoding, SAMPLED_BYTES)):
        if number % step == 0:
            kept.append((last, lines_in(last)))
            if len(kept) > SAMPLED_BLOCKS and sum(count for _, count in kept) > 2 * lines:
                kept, step = kept[::2], 2 * step
    sampled = [block for block, _ in kept]
    if step == 1:
        return [b"".join(sampled)]
    return sampled if number % step == 0 else [*sampled, last]


def lines_in(text: bytes) -> int:
    """Return the number of lines that are not empty."""
    if text.endswith(b"\n") and not text.startswith(b"\n") and b"\r" not in text and b"\n\n" not in text:
        return text.count(b"\n")
    return sum(map(bool, text.splitlines()))


def _not_decoded(uri: str, encoding: str, lines: int, error: UnicodeDecodeError) -> DataError:
    before = error.object[: error.start].decode(error.encoding, "ignore").count("\n")
    return DataError(
        f"the file is not {encoding} text",
        where=uri,
        detail=f"line {lines + before + 1}: {error.reason}",
        remedy="Set process.encoding to the encoding of the file, such as latin-1, cp1252 or utf-16",
    )


@contextmanager
def _open(uri: str) -> "Generator[NativeFile]":
    """Open a text file as bytes, decompressed by what its first bytes say: names are not always true."""
    import pyarrow as pa

    with storage.open_input(uri) as source:
        start = source.read(10)
        source.seek(0)
        if what := next((what for magic, what in NO_TEXT.items() if start.startswith(magic)), None):
            remedy = "Name the file with its true ending" if what == "Parquet" else "Unpack it, or save it as CSV"
            raise DataError("the file is not text", where=uri, detail=f"it is {what}", remedy=remedy)
        compression = next((kind for magic, kind in COMPRESSIONS.items() if start.startswith(magic)), None)
        if compression is None:
            yield source
        else:
            with pa.CompressedInputStream(source, compression) as stream:
                yield stream
