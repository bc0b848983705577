"""Read Parquet in batches of rows, with the types of its columns."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import polars as pl

from rayworks import storage
from rayworks.data.batches import BATCH_ROWS, Batch, check_names, unreadable
from rayworks.errors import DataError

PLAIN_TEXT_BYTES = 4  # of a value that is not in a dictionary, at least: its length


@contextmanager
def opened(uri: str, coded: Sequence[int] = ()) -> Generator[Any]:
    """Open a Parquet file. Arrow's errors become a ``DataError``.

    Args:
        uri: The file.
        coded: Row groups whose text is read as dictionaries where it is stored so.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open_input(uri) as source:
        try:
            # Nanoseconds, Arrow's default for the timestamps of old Spark, end in the years 1677 and 2262.
            open_file = partial(pq.ParquetFile, source, coerce_int96_timestamp_unit="us")
            file: Any = open_file()
            check_names(file.schema_arrow.names, uri)
            if names := _in_dictionaries(file, coded):
                file = open_file(metadata=file.metadata, read_dictionary=names)
            yield file
        except pa.ArrowException as error:
            raise unreadable(uri, "Parquet", error) from error


def _in_dictionaries(file: Any, groups: Sequence[int]) -> list[str]:
    """The columns of text whose values are few, and in the dictionary of each of the row groups; none where these are
    small, since no batch has rows of two dictionaries."""
    metadata = [file.metadata.row_group(group) for group in groups]
    if not metadata or sum(group.num_rows for group in metadata) < len(metadata) * BATCH_ROWS // 2:
        return []
    text = {each.name for each in file.schema_arrow if _is_text(each.type)}
    for group in metadata:
        columns = [group.column(number) for number in range(group.num_columns)]
        text &= {
            column.path_in_schema
            for column in columns
            if column.has_dictionary_page and column.total_uncompressed_size < PLAIN_TEXT_BYTES * group.num_rows
        }
    return sorted(text)


def batches(
    uri: str,
    groups: Sequence[int],
    first_row: int,
    columns: Sequence[str] | None,
    enums: bool = False,
    sampled: int | None = None,
) -> Iterator[Batch]:
    """Yield the rows of some row groups, at most ``BATCH_ROWS`` at a time.

    Args:
        uri: The file.
        groups: The row groups.
        first_row: The number of their first row.
        columns: The columns to read, as far as the file has them; None reads all.
        enums: Return text that is stored as a dictionary as ``pl.Enum`` of its values, so that each is looked at once.
        sampled: Yield only about so many rows to twice as many, spread over the groups. Their numbers mean nothing.

    Raises:
        StorageError: The file cannot be read.
        DataError: It is not Parquet, or has another number of rows than its footer says.
    """
    import pyarrow as pa

    row = first_row
    with opened(uri, groups if enums else ()) as file:
        present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        expected = sum(file.metadata.row_group(group).num_rows for group in groups)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=present):
            whole = Batch(_rows(pa.Table.from_batches([batch]), enums), row, batch.num_rows)
            yield whole.thinned(sampled * batch.num_rows // expected) if sampled else whole
            row += batch.num_rows
    if row - first_row != expected:
        detail = f"its footer says {expected:,} rows, it has {row - first_row:,}"
        raise DataError("the Parquet file is incomplete", where=uri, detail=detail, remedy="Write it again")


def _rows(table: Any, enums: bool = False) -> pl.DataFrame:
    """The table with the types that Polars has: it knows neither wide decimals nor time zones without a name.

    Text that is written as a dictionary, as categories of pandas are, is text like any other, unless ``enums`` says so.
    """
    import pyarrow as pa

    coded = [
        each.name
        for each in table.schema
        if enums and pa.types.is_dictionary(each.type) and _is_text(each.type.value_type)
    ]
    if coded:
        others = _rows(table.drop_columns(coded))
        return others.hstack([_enum(table.column(name)).alias(name) for name in coded]).select(table.column_names)
    schema: Any = pa.schema([field.with_type(_known(field.type)) for field in table.schema])
    rows = cast(pl.DataFrame, pl.from_arrow(table if schema == table.schema else table.cast(schema)))
    wide = [field.name for field in table.schema if pa.types.is_decimal256(field.type)]
    return rows.with_columns(rows[name].cast(pl.Float64) for name in wide)


def _known(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_decimal256(kind):
        return pa.string()  # Arrow's own conversion to floats is not exact
    if pa.types.is_timestamp(kind) and kind.tz:
        return pa.timestamp(kind.unit, "UTC")
    if isinstance(kind, pa.BaseExtensionType):
        return _known(kind.storage_type)  # of JSON: text
    if pa.types.is_dictionary(kind):
        return _known(kind.value_type)
    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_known(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_known(kind.key_type), _known(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_known(field.type)) for field in kind])
    return kind


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _enum(values: Any) -> pl.Series:
    """Text in a dictionary as an enumeration of its values; as text if these are many for so few rows, or if one is
    there twice, as other writers may do."""
    (chunk,) = values.chunks
    numbers, distinct = cast(pl.Series, pl.from_arrow(chunk.indices)), cast(pl.Series, pl.from_arrow(chunk.dictionary))
    if len(distinct) > len(numbers) // 2 or distinct.n_unique() < len(distinct):
        return distinct.gather(numbers)
    return numbers.cast(pl.UInt32).cat.to(pl.Enum(distinct))
