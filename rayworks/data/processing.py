"""Raw data to a dataset: validated, split, with features and statistics. Ray Data spreads the work, chunk by chunk.

Each task reads its chunk in batches and writes its own part files, so that no row crosses the object store, memory
does not grow with the data, and a task that is run again replaces what it wrote. The manifest is written last.
"""

import hashlib
import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rayworks import __version__, import_path, storage
from rayworks.data import column_kinds, features, reading, splitting, validation
from rayworks.data.reading import BATCH_ROWS, Chunk
from rayworks.data.splitting import Splitter
from rayworks.data.statistics import Statistics, edges_of
from rayworks.errors import DataError, RayworksError, StorageError
from rayworks.params import ProcessOptions
from rayworks.progress import Progress, silent
from rayworks.records import (
    SPLITS,
    Column,
    ColumnKind,
    Dataset,
    DatasetRef,
    Feature,
    FeatureSet,
    SourceFile,
    Split,
    SplitName,
    Target,
)

SAMPLED_CHUNKS = 5
TIMES_PER_CHUNK = 10_000  # enough for the shares of a split by time to be exact to a ten-thousandth
MANIFEST = "dataset.json"


@dataclass(frozen=True)
class Plan:
    """All that a task must know to process a chunk."""

    uri: str
    target: str
    columns: tuple[Column, ...]
    feature_set: FeatureSet
    splitter: Splitter
    edges: dict[str, tuple[float, ...]]


@dataclass
class ChunkCounts:
    """What a task counted."""

    rows_in: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    splits: dict[SplitName, Statistics] = field(default_factory=dict[SplitName, Statistics])
    classes: dict[SplitName, Counter[Any]] = field(default_factory=dict[SplitName, Counter[Any]])

    def merge(self, other: "ChunkCounts") -> None:
        self.rows_in += other.rows_in
        self.reasons.update(other.reasons)
        for name, statistics in other.splits.items():
            self.splits.setdefault(name, Statistics(statistics.edges)).merge(statistics)
        for name, classes in other.classes.items():
            self.classes.setdefault(name, Counter()).update(classes)


def fingerprint(uri: str, target: str, options: ProcessOptions, *, storage_uri: str) -> str:
    """A text that changes whenever the dataset would: by the files, the options, the user's function or rayworks."""
    files = reading.source_files(reading.resolve(uri, storage_uri), options.format)
    facts = [
        __version__,
        target,
        options.model_dump(mode="json"),
        [file.model_dump(mode="json") for file, _ in files],
        import_path.fingerprint(options.feature_function) if options.feature_function else None,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def name_of(uri: str) -> str:
    """A short name for the data and their models: ``s3://lake/Titanic.csv`` is ``titanic``."""
    parts = [part for part in uri.split("/") if part and not re.search(r"[*?\[]", part)]
    stem = re.sub(r"\.(gz|bz2|zst|lz4)$", "", parts[-1]) if parts else "data"
    return re.sub(r"[^a-z0-9]+", "-", stem.rsplit(".", 1)[0].lower()).strip("-") or "data"


def location(uri: str, target: str, options: ProcessOptions, *, storage_uri: str, name: str | None = None) -> str:
    """The folder of the dataset, whether it was made or not."""
    key = fingerprint(uri, target, options, storage_uri=storage_uri)
    return storage.join(storage.absolute(storage_uri), "datasets", f"{name or name_of(uri)}-{key[:12]}")


def load(dataset: DatasetRef | str) -> Dataset:
    """The manifest of a dataset, by reference or by the URI of its folder.

    Raises:
        StorageError: There is none, or it is of another version.
    """
    uri = dataset if isinstance(dataset, str) else dataset.uri
    return storage.read_record(storage.join(uri, MANIFEST), Dataset)


def process(
    uri: str,
    target: str,
    options: ProcessOptions,
    *,
    storage_uri: str,
    name: str | None = None,
    progress: Progress = silent,
) -> DatasetRef:
    """Make a dataset of the data at ``uri``, or find the one that was made of the same data in the same way.

    Raises:
        DataError, ParameterError, StorageError: With what, where and what to do; nothing is left half-written.
    """
    progress(0.0, "looking at the data")
    folder = location(uri, target, options, storage_uri=storage_uri, name=name)
    if storage.exists(storage.join(folder, MANIFEST)):
        return load(folder).ref()
    files = reading.source_files(reading.resolve(uri, storage_uri), options.format)
    chunks = reading.chunks(files)
    storage.delete(folder)  # parts of a run that was killed
    try:
        plan = make_plan(chunks, target, options, folder)
        counts = ChunkCounts()
        for done, part in enumerate(_run(chunks, lambda chunk: process_chunk(chunk, plan)), start=1):
            counts.merge(part)
            progress(done / len(chunks), f"{done} of {len(chunks)} chunks, {counts.rows_in:,} rows")
        dataset = _manifest(plan, counts, options, [file for file, _ in files], folder, name or name_of(uri))
        storage.write_record(storage.join(folder, MANIFEST), dataset)
        progress(
            1.0, f"{dataset.rows_kept:,} of {dataset.rows_in:,} rows kept, {len(dataset.feature_set.features)} features"
        )
    except BaseException:
        with suppress(StorageError):  # what went wrong first is what the user must hear
            storage.delete(folder)
        raise
    return dataset.ref()


def make_plan(chunks: list[Chunk], target: str, options: ProcessOptions, folder: str) -> Plan:
    """Infer from a sample what the columns are, which features to make, and how to split."""
    sample = _sample(chunks, options.sample_rows)
    columns = column_kinds.infer_columns(sample, target, options)
    good, _ = validation.validate(sample, columns, target)
    problem = column_kinds.infer_problem(good[target], options.problem)
    columns = tuple(_as_target(c, problem) if c.name == target else c for c in columns)
    good, bad = validation.validate(sample, columns, target)
    if good.is_empty():
        raise _all_invalid(Counter(bad[validation.REASON].to_list()), len(sample), chunks[0].uri)
    inputs = tuple(column for column in columns if column.name != target)
    feature_set = features.plan(good.drop(target), inputs, options.feature_function, target)
    splitter = splitting.choose(options.split, inputs)
    if splitter.by == "time":
        column = next(c for c in inputs if c.name == splitter.column)
        times = list(_run(chunks, lambda chunk: _times(chunk, column)))
        splitter = splitting.with_thresholds(splitter, pl.concat(times))
    edges = edges_of(_with_features(good, feature_set))
    return Plan(folder, target, columns, feature_set, splitter, edges)


def _as_target(column: Column, problem: str) -> Column:
    """Amounts are stored as floats; classes that are whole numbers, as such."""
    dtype = "float" if problem == "regression" else "integer" if column.dtype == "float" else column.dtype
    return column.model_copy(
        update={"dtype": dtype, "kind": "categorical" if column.kind == "ignored" else column.kind}
    )


def _sample(chunks: list[Chunk], rows: int) -> pl.DataFrame:
    """Rows from the beginnings of a few chunks, spread over all; columns that differ in type become text."""
    if not chunks:
        raise DataError("the data have no rows", remedy="Name data that have some")
    step = max(1, len(chunks) // SAMPLED_CHUNKS)
    chosen = chunks[::step][:SAMPLED_CHUNKS]
    begun = [batch for chunk in chosen for batch in _beginning(chunk, rows // len(chosen) + 1)]
    frames = [batch.rows for batch in begun if len(batch.rows)]
    if not frames:
        said = next((reason for batch in begun for _, _, reason in batch.malformed), "")
        remedy = "Mend its lines" if said else "Name data that have some"
        raise DataError("the data have no rows", where=chunks[0].uri, detail=said, remedy=remedy)
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        return pl.concat([frame.cast(pl.String, strict=False) for frame in frames], how="diagonal")


def _beginning(chunk: Chunk, rows: int) -> Iterator[reading.Batch]:
    for batch in reading.batches(chunk):
        batch.rows = batch.rows.head(rows)
        rows -= len(batch.rows)
        yield batch
        if rows <= 0:
            return


def _times(chunk: Chunk, column: Column) -> pl.DataFrame:
    """How many rows of a chunk have which time, neighbours merged where there are many."""
    found: list[pl.DataFrame] = []
    for batch in reading.batches(chunk, [column.name]):
        if column.name in batch.rows.columns:
            typed = validation.typed(column.name, batch.rows.schema[column.name], "timestamp")
            found.append(
                batch.rows.select(typed.alias("time")).drop_nulls().group_by("time").agg(pl.len().alias("rows"))
            )
    empty = pl.DataFrame(schema={"time": pl.Datetime("us"), "rows": pl.UInt32})
    counts = pl.concat([empty, *found]).group_by("time").agg(pl.col("rows").sum()).sort("time")
    bucket = pl.int_range(pl.len()) * TIMES_PER_CHUNK // max(len(counts), TIMES_PER_CHUNK)
    return (
        counts.group_by(bucket.alias("bucket")).agg(pl.col("time").max(), pl.col("rows").sum()).select("time", "rows")
    )


def _with_features(typed: pl.DataFrame, feature_set: FeatureSet) -> pl.DataFrame:
    """Typed rows with the features that are not among their columns already."""
    made = features.transform(typed.select(c.name for c in feature_set.columns), feature_set)
    return typed.hstack([column for column in made.iter_columns() if column.name not in typed.columns])


def process_chunk(chunk: Chunk, plan: Plan) -> ChunkCounts:
    """Read, validate, make features, split, and write the parts of one chunk."""
    counts = ChunkCounts()
    file = chunk.uri.rpartition("/")[2]
    with ExitStack() as stack:
        writers = _PartWriters(stack, plan.uri, f"part-{chunk.number:05}.parquet")
        for batch in reading.batches(chunk):
            rows = batch.rows.with_row_index(validation.ROW, batch.first_row)
            good, bad = validation.validate(rows, plan.columns, plan.target)
            rejected = pl.concat([_rejected(bad, chunk.uri), _malformed(batch.malformed, chunk.uri)])
            counts.rows_in += len(rows) + len(batch.malformed)
            counts.reasons.update(validation.reason_class(reason) for reason in rejected["reason"])
            writers.write("rejected", rejected)
            numbers, good = good[validation.ROW], _with_features(good.drop(validation.ROW), plan.feature_set)
            parts = plan.splitter.assign(good, file, numbers)
            for name in SPLITS:
                part = good.filter(parts == name)
                writers.write(name, part)
                counts.splits.setdefault(name, Statistics(plan.edges)).add(part)
                if part[plan.target].dtype != pl.Float64:
                    classes = part[plan.target].value_counts()
                    found = dict(zip(classes[plan.target], classes["count"], strict=True))
                    counts.classes.setdefault(name, Counter()).update(found)
    return counts


def _rejected(bad: pl.DataFrame, file: str) -> pl.DataFrame:
    # Nested and binary values, which no feature is made of, are left out: not all of them can be written as JSON.
    shown = [
        n for n, dtype in bad.schema.items() if not dtype.is_nested() and not isinstance(dtype, pl.Binary | pl.Object)
    ]
    record = pl.struct(pl.col(shown).exclude(validation.ROW, validation.REASON)).struct.json_encode()
    return bad.select(
        pl.lit(file).alias("file"),
        pl.col(validation.ROW).cast(pl.Int64).alias("row"),
        pl.col(validation.REASON).alias("reason"),
        record.alias("record"),
    )


def _malformed(malformed: list[tuple[int, str, str]], file: str) -> pl.DataFrame:
    rows = [(file, row, reason, text) for row, text, reason in malformed]
    schema = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "record": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


class _PartWriters:
    """The Parquet files that one chunk writes, each opened when it gets its first row."""

    def __init__(self, stack: ExitStack, uri: str, part: str) -> None:
        self._stack, self._uri, self._part, self._writers = stack, uri, part, dict[str, Any]()

    def write(self, folder: str, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        import pyarrow.parquet as pq

        table = rows.to_arrow()
        if folder not in self._writers:
            sink = self._stack.enter_context(storage.open_output(storage.join(self._uri, folder, self._part)))
            writer = pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=1)
            self._writers[folder] = self._stack.enter_context(writer)
        self._writers[folder].write_table(table, row_group_size=BATCH_ROWS)


def _run(chunks: list[Chunk], work: Callable[[Chunk], Any]) -> Iterator[Any]:
    """Results of ``work`` on each chunk as they come, by Ray Data: it retries, spills and holds back by itself."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    numbers = ray.data.from_items(list(range(len(chunks))), override_num_blocks=len(chunks))

    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            result = work(chunks[row["item"]])
        except RayworksError as error:  # as a result: Ray Data wraps what is raised so that its kind is lost
            result = error
        return {"result": pickle.dumps(result)}  # bytes have a type in Arrow; objects are pickled with a warning

    for row in numbers.map(one).iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, RayworksError):
            raise result
        yield result


def _manifest(
    plan: Plan, counts: ChunkCounts, options: ProcessOptions, files: list[SourceFile], folder: str, name: str
) -> Dataset:
    """Put together what the tasks counted, and refuse data that nothing can be learnt from."""
    set_aside = counts.reasons.total()
    kept = {part: statistics.rows for part, statistics in counts.splits.items()}
    if not sum(kept.values()):
        raise _all_invalid(counts.reasons, counts.rows_in, files[0].uri)
    if empty := [part for part in SPLITS if not kept.get(part)]:
        raise DataError(
            f"no row is left to {' and '.join(empty)} with",
            where=files[0].uri,
            detail=f"{sum(kept.values()):,} usable rows, split {plan.splitter.describe()}",
            remedy="Bring more rows, or choose other shares or another way to split",
        )
    train = counts.splits["train"]
    target = _target(plan, counts, options)
    made = tuple(_with_categories(feature, train, options.max_categories) for feature in plan.feature_set.features)
    ignored = tuple(c for c in plan.columns if c.kind == "ignored" and c.name != plan.target)
    kinds: dict[str, ColumnKind] = {**{f.name: f.kind for f in made}, **{c.name: c.kind for c in plan.columns}}
    splits = tuple(
        Split(
            name=part,
            uri=storage.join(folder, part),
            rows=kept[part],
            statistics=tuple(counts.splits[part].of_column(n, k) for n, k in kinds.items() if k != "ignored"),
        )
        for part in SPLITS
    )
    return Dataset(
        name=name,
        fingerprint=folder.rpartition("-")[2],
        uri=folder,
        target=target,
        splits=splits,
        sources=tuple(files),
        feature_set=plan.feature_set.model_copy(update={"features": made, "ignored": ignored}),
        split_by=plan.splitter.describe(),
        rows_in=counts.rows_in,
        rows_kept=sum(kept.values()),
        rows_rejected=set_aside,
        class_counts={
            str(label): count for label, count in sorted(counts.classes.get("train", Counter[Any]()).items())
        },
        reasons=dict(counts.reasons.most_common()),
        rejected_uri=storage.join(folder, "rejected"),
    )


def _with_categories(feature: Feature, train: Statistics, most: int) -> Feature:
    if feature.kind == "numeric":
        return feature
    common = sorted(train.values.get(feature.name, Counter[str]()).items(), key=lambda pair: (-pair[1], pair[0]))
    return feature.model_copy(update={"categories": tuple(value for value, _ in common[:most])})


def _target(plan: Plan, counts: ChunkCounts, options: ProcessOptions) -> Target:
    if counts.classes:
        classes = tuple(sorted(set[Any]().union(*counts.classes.values())))
        rows = sum(found.total() for found in counts.classes.values())
        return Target(
            name=plan.target,
            problem=column_kinds.problem_of_classes(classes, options.problem, plan.target, rows),
            classes=classes,
        )
    _, _, _, low, high = counts.splits["train"].moments[plan.target]
    if low == high:
        raise DataError(
            "the target has only one value, there is nothing to learn", where=plan.target, detail=f"always {low:g}"
        )
    return Target(name=plan.target, problem="regression")


def _all_invalid(reasons: Counter[str], rows: int, where: str) -> DataError:
    said = "; ".join(f"{count:,} rows: {reason}" for reason, count in reasons.most_common(3))
    return DataError(
        f"none of the {rows:,} rows can be used", where=where, detail=said, remedy="Mend the data or the declarations"
    )
