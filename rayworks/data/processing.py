"""Turn raw data into a dataset: validated, split, with features and statistics.

Ray Data spreads the work, chunk by chunk. Each task reads its chunk in batches and writes its own part files, so that
no row crosses the object store, memory does not grow with the data, and a task that is retried replaces what it wrote.
The manifest is written last.
"""

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import polars as pl

from rayworks import code_digest, import_path, parallel, reuse, storage
from rayworks.data import manifest, planning, reading, splitting, validation
from rayworks.data.batches import BATCH_ROWS, Doubt
from rayworks.data.manifest import RowCounts
from rayworks.data.planning import Plan
from rayworks.data.reading import Chunk
from rayworks.errors import StorageError
from rayworks.params import ProcessOptions
from rayworks.progress import Progress
from rayworks.records import SPLITS, Dataset, DatasetRef, SourceFile
from rayworks.reuse import Stage


def fingerprint(
    target: str, options: ProcessOptions, files: list[SourceFile], champion: splitting.Learned | None = None
) -> str:
    """Return text that changes whenever the dataset would: with files, options, the user's function or rayworks."""
    facts = [
        code_digest.of_library("data"),
        target,
        options.model_dump(mode="json"),
        [file.model_dump(mode="json") for file in files],
        import_path.fingerprint(options.feature_function) if options.feature_function else None,
        repr(champion),
    ]
    return reuse.digest(json.dumps(facts, sort_keys=True))


def name_of(uri: str) -> str:
    """Return a short name for the data and its models: ``s3://lake/Titanic.csv`` is ``titanic``."""
    parts = [part for part in uri.split("/") if part and not re.search(r"[*?\[]", part)]
    stem = re.sub(r"\.(gz|bz2|zst|lz4)$", "", parts[-1]) if parts else "data"
    return re.sub(r"[^a-z0-9]+", "-", stem.rsplit(".", 1)[0].lower()).strip("-") or "data"


def stage(
    uri: str | Sequence[str],
    target: str,
    options: ProcessOptions,
    *,
    storage_uri: str,
    name: str | None = None,
    only: Sequence[str] | None = None,
    champion: splitting.Learned | None = None,
) -> Stage[DatasetRef]:
    """Return the stage that creates a dataset from the data at ``uri``. Lists the files, to know their versions.

    Args:
        uri: One or several files, folders or globs.
        only: The URIs of the files to read of those at ``uri``. None: all.
        champion: What the champion has learned from: the test rows are others, where there are enough.

    Its ``create`` raises the same errors, and leaves no partial dataset.

    Raises:
        DataError, ParameterError, StorageError: With what is wrong, where, and what to do.
    """
    uris = [uri] if isinstance(uri, str) else list(uri)
    places = [reading.resolve(each, storage_uri) for each in uris]
    files = reading.of_all(places, options.format, only)
    sources, name = [file.source for file in files], name or name_of(uris[0])
    folder = reuse.location(storage_uri, "datasets", name, fingerprint(target, options, sources, champion))
    manifest_uri = storage.join(folder, manifest.FILE)

    def find() -> DatasetRef | None:
        dataset = reuse.find_record(manifest_uri, Dataset)
        return dataset.ref() if dataset else None

    def create(progress: Progress) -> DatasetRef:
        empty = sum(not file.bytes for file in sources)
        progress(0.0, f"inspecting the data{f', {empty} files without a byte are skipped' if empty else ''}")
        storage.delete(folder)  # part files of a run that was killed
        try:
            chunks = reading.chunks(files, options.encoding)
            plan = _with_times(planning.make_plan(chunks, target, options, folder), chunks, champion)
            counts = _write_parts(plan, chunks, progress)
            dataset = manifest.assemble(plan, counts, options, sources, name, champion)
            if blocks := manifest.time_blocks(plan, counts, dataset):
                storage.write_record(storage.join(folder, manifest.BLOCKS_FILE), blocks)
            reading.check_unchanged(sources, places)
            storage.write_record(manifest_uri, dataset)
        except BaseException:
            with suppress(StorageError):  # the first failure is the one to report
                storage.delete(folder)
            raise
        rows = f"{dataset.rows_kept:,} of {dataset.rows_in:,} rows kept"
        progress(1.0, f"{rows}, {len(dataset.feature_set.features)} features")
        return dataset.ref()

    return Stage(find, create)


def _write_parts(plan: Plan, chunks: list[Chunk], progress: Progress) -> RowCounts:
    """Write the part files of all chunks, and return what was counted."""
    counts = RowCounts()
    for done, part in enumerate(parallel.map_unordered(lambda chunk: process_chunk(chunk, plan), chunks), start=1):
        counts.merge(part)
        progress(done / len(chunks), f"{done} of {len(chunks)} chunks, {counts.rows_in:,} rows")
    return counts


def _with_times(plan: Plan, chunks: list[Chunk], champion: splitting.Learned | None) -> Plan:
    """The plan with the times to split by, counted over all chunks, if the split is by time."""
    column = plan.time_column
    if column is None:
        return plan
    counts = parallel.map_unordered(lambda chunk: planning.count_times(chunk, column), chunks)
    return plan.with_times(counts, champion)


def process_chunk(chunk: Chunk, plan: Plan) -> RowCounts:
    """Read, validate, add features, split, and write the part files of one chunk."""
    counts = RowCounts()
    records, doubts = 0, dict[str, Doubt]()
    with ExitStack() as stack:
        writers = _PartWriters(stack, plan.uri, f"part-{chunk.number:05}.parquet")
        planned = [column.name for column in plan.columns]
        for batch in reading.batches(chunk, enums=True):
            planning.check_header(chunk, batch.rows.columns, planned)
            rows = batch.rows.with_columns(batch.numbers.alias(validation.ROW))
            valid, invalid = validation.validate(rows, plan.columns, plan.target)
            rejected = pl.concat([_rejected(invalid, chunk.uri), _malformed(batch.malformed, chunk.uri)])
            records, doubts = records + batch.records, batch.doubts
            counts.note_columns(chunk.uri, batch.rows.columns, plan)
            counts.rows_in += len(rows) + len(batch.malformed)
            counts.reasons.update(validation.reason_class(reason) for reason in rejected["reason"])
            writers.write("rejected", rejected)
            numbers = valid[validation.ROW]
            valid = planning.with_features(valid.drop(validation.ROW), plan.feature_set)
            parts = plan.splitter.assign(valid, chunk.path, numbers)
            for name in SPLITS:
                part = valid.filter(parts == name)
                writers.write(name, part)
                counts.add(name, part, plan)
    counts.check(chunk.uri, records)
    counts.note_doubts(chunk.uri, doubts, plan)
    counts.count_file(chunk.uri, sum(split.rows for split in counts.splits.values()))
    return counts


def _rejected(invalid: pl.DataFrame, file: str) -> pl.DataFrame:
    """Rejected rows as they are stored: file, row number, reason, and the values as JSON."""
    # Nested and binary values, which never become features, are left out: not all of them can be written as JSON.
    plain = [
        name
        for name, dtype in invalid.schema.items()
        if name not in (validation.ROW, validation.REASON)
        and not dtype.is_nested()
        and not isinstance(dtype, pl.Binary | pl.Object)
    ]
    record = pl.struct(plain).struct.json_encode() if plain else pl.lit("{}")
    return invalid.select(
        pl.lit(file).alias("file"),
        pl.col(validation.ROW).cast(pl.Int64).alias("row"),
        pl.col(validation.REASON).alias("reason"),
        record.alias("record"),
    )


def _malformed(malformed: list[tuple[int, str, str]], file: str) -> pl.DataFrame:
    """Lines that are not rows at all, in the same form."""
    rows = [(file, row, reason, text) for row, text, reason in malformed]
    schema = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "record": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


class _PartWriters:
    """The Parquet files that one chunk writes, each opened when it gets its first row."""

    def __init__(self, stack: ExitStack, uri: str, part: str) -> None:
        self._stack, self._uri, self._part, self._writers = stack, uri, part, dict[str, Any]()

    def write(self, folder: str, rows: pl.DataFrame) -> None:
        """Append ``rows`` to this chunk's file in ``folder``."""
        if rows.is_empty():
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table: Any = rows.to_arrow()
        if folder not in self._writers:
            sink = self._stack.enter_context(storage.open_output(storage.join(self._uri, folder, self._part)))
            # Enumerations differ between batches, and are text for whoever reads the file. Nobody asks for the bounds
            # of its columns, which take an eighth of the time.
            text: Any = pa.dictionary(pa.int32(), pa.large_string())
            schema: Any = pa.schema(
                [pa.field(f.name, text if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
            )
            writer = pq.ParquetWriter(
                sink, schema, compression="zstd", compression_level=1, store_schema=False, write_statistics=False
            )
            self._writers[folder] = self._stack.enter_context(writer)
        writer = self._writers[folder]
        writer.write_table(table.cast(writer.schema), row_group_size=BATCH_ROWS)
