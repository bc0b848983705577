"""Read Parquet in batches of rows, with the types of its columns."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import polars as pl

from rayworks import storage
from rayworks.data.batches import BATCH_ROWS, Batch, check_names, unreadable
from rayworks.errors import DataError


@contextmanager
def opened(uri: str) -> Generator[Any]:
    """Open a Parquet file. Arrow's errors become a ``DataError``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open_input(uri) as source:
        try:
            # Nanoseconds, Arrow's default for the timestamps of old Spark, end in the years 1677 and 2262.
            file: Any = pq.ParquetFile(source, coerce_int96_timestamp_unit="us")
            check_names(file.schema_arrow.names, uri)
            yield file
        except pa.ArrowException as error:
            raise unreadable(uri, "Parquet", error) from error


def batches(uri: str, groups: Sequence[int], first_row: int, columns: Sequence[str] | None) -> Iterator[Batch]:
    """Yield the rows of some row groups, at most ``BATCH_ROWS`` at a time.

    Raises:
        StorageError: The file cannot be read.
        DataError: It is not Parquet, or has another number of rows than its footer says.
    """
    import pyarrow as pa

    row = first_row
    with opened(uri) as file:
        present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=present):
            yield Batch(_rows(pa.Table.from_batches([batch])), row, batch.num_rows)
            row += batch.num_rows
        expected = sum(file.metadata.row_group(group).num_rows for group in groups)
    if row - first_row != expected:
        detail = f"its footer says {expected:,} rows, it has {row - first_row:,}"
        raise DataError("the Parquet file is incomplete", where=uri, detail=detail, remedy="Write it again")


def _rows(table: Any) -> pl.DataFrame:
    """The table with the types that Polars has: it knows neither wide decimals nor time zones without a name.

    Text that is written as a dictionary, as categories of pandas are, is text like any other.
    """
    import pyarrow as pa

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
