"""What ``monitor`` finds on the flights, what it alarms without reason, and how long it takes.

    uv run python benchmarks/drift.py [PERMUTATIONS] [FIRST SEED]      30 0
    uv run python benchmarks/drift.py time [MILLIONS]     1
    uv run --extra evidently python benchmarks/drift.py time [MILLIONS]

The reference are the flights of January to August, in their order of time, as ``process`` counts training rows.

Shifts that are put in: new rows are a random sample of the same months, so that nothing else differs, and one of their
columns at a time is changed. Found means that this column is past its threshold.

False alarms: the rows of the year are permuted among the months, or whole days are, which keeps what the flights of one
day have in common. A false alarm is any column past its threshold in one of the months from September to December.

Time: of the stage of ``monitor``, from the files to the record, beside the page of Evidently's ``DataDriftPreset`` on
as many of the same rows as it takes in three minutes, with 100,000 of the flights as the reference. Evidently has the
columns of both sides without times, in a process of its own.
"""

import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from processing import copies

from rayworks import ray_running
from rayworks.data import planning, processing, reading, splitting, validation
from rayworks.data.examples import flights
from rayworks.data.planning import Plan
from rayworks.data.statistics import Statistics
from rayworks.evaluation import _private, champion_drift, evidently_page, registry
from rayworks.monitoring import drift
from rayworks.monitoring.options import MonitorOptions
from rayworks.params import ProcessOptions, TrainOptions
from rayworks.records import ColumnKind, ColumnStatistics, TimeBlocks
from rayworks.training import training

STEADY = 0.15
TARGET, TIME = "arr_delay", "time_hour"
MONTHS = 8
ROWS = (1_000, 25_000)
SAMPLES = 3
MEANS = (0.1, 0.2, 0.3, 0.5, 1.0)
MIXES = (0.02, 0.05, 0.1, 0.2, 0.4)
MISSING = (0.01, 0.02, 0.05, 0.1, 0.2)
EVIDENTLY_REFERENCE, EVIDENTLY_ROWS, EVIDENTLY_SECONDS = 100_000, (100_000, 1_000_000), 180


class Flights:
    """The flights of the year with their features, as ``process`` has them, without the time."""

    def __init__(self, folder: Path) -> None:
        flights.write(str(folder))
        chunks = reading.chunks(reading.source_files(str(folder)))
        self.plan: Plan = planning.make_plan(chunks, TARGET, ProcessOptions(), str(folder))
        raw = pl.read_parquet(folder / "*.parquet").sort(TIME, maintain_order=True)
        valid, _ = validation.validate(raw, self.plan.columns, TARGET)
        rows = planning.with_features(valid, self.plan.feature_set)
        parts = [feature.name for feature in self.plan.feature_set.features if feature.part]
        self.time, self.rows = rows[TIME], rows.drop(TIME, *parts)
        kinds: dict[str, ColumnKind] = {column.name: column.kind for column in self.plan.columns}
        kinds.update({feature.name: feature.kind for feature in self.plan.feature_set.features})
        self.kinds: dict[str, ColumnKind] = {name: kinds[name] for name in self.rows.columns}
        self.month = self.time.dt.month()

    def count(self, rows: pl.DataFrame) -> Statistics:
        statistics = Statistics(self.plan.edges)
        statistics.add(rows)
        return statistics

    def reference(self, rows: pl.DataFrame) -> tuple[list[ColumnStatistics], TimeBlocks]:
        """The first months of rows in the order of time, and their blocks; without the columns that are left out."""
        first = self.month <= MONTHS
        times, rows = self.time.filter(first), rows.filter(first)
        counts = times.alias("time").to_frame().group_by("time").agg(pl.len().alias("rows"))
        starts = splitting.block_starts(counts, times.max())  # type: ignore[arg-type]
        ends = [*(times.search_sorted(start) for start in starts[1:]), len(rows)]
        counted = [self.count(rows[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        whole = self.count(rows.clear())
        for part in counted:
            whole.merge(part)
        columns = [whole.of_column(name, kind) for name, kind in self.kinds.items()]
        blocks = TimeBlocks(starts=starts, blocks=tuple(tuple(self.like(columns, part)) for part in counted))
        left_out = drift.left_out(self.plan.feature_set, columns, blocks)
        return [column for column in columns if column.name not in left_out], blocks

    @staticmethod
    def like(reference: list[ColumnStatistics], counted: Statistics) -> list[ColumnStatistics]:
        return [counted.of_column(column.name, column.kind, column.values) for column in reference]


def changes(rows: pl.DataFrame, name: str, seed: int) -> Iterator[tuple[str, float, pl.Series]]:
    """Yield kind, size and the changed column of each change of a column."""
    column, chance = rows[name], pl.Series(np.random.default_rng(seed).random(len(rows)))
    for share in MISSING:
        yield "missing values", share, column.set(chance < share, None)
    if column.dtype == pl.String:
        for share in MIXES:
            yield "a new value", share, column.set(chance < share, "new")
    elif column.n_unique() > 3:
        numbers = column.cast(pl.Float64)
        for size in MEANS:
            yield "shift of the mean, deviations", size, numbers + size * float(numbers.std())  # type: ignore[arg-type]


def found(data: Flights) -> None:
    """Print the share of changes that are found, by kind, size and rows, of columns that are steady in time or not."""
    reference, blocks = data.reference(data.rows)
    limits = drift.thresholds(reference, blocks)
    pool = data.rows.filter(data.month <= MONTHS)
    hits: dict[tuple[str, float], dict[tuple[bool, int], list[bool]]] = {}
    for rows in ROWS:
        for seed in range(SAMPLES):
            sample = pool.sample(rows, seed=seed)
            current = Flights.like(reference, data.count(sample))
            for number, column in enumerate(reference):
                is_steady = limits[column.name].distance < STEADY
                for kind, size, changed in changes(sample, column.name, seed):
                    new = Flights.like([column], data.count(changed.to_frame()))
                    result = drift.compare(reference, [*current[:number], *new, *current[number + 1 :]], limits)
                    is_found = any(each.drifted for each in result if each.before.name == column.name)
                    hits.setdefault((kind, size), {}).setdefault((is_steady, rows), []).append(is_found)
    steady = [column.name for column in reference if limits[column.name].distance < STEADY]
    sys.stdout.write(f"steady: {', '.join(steady)}\n{len(reference) - len(steady)} columns are not\n\n")
    sides = [(is_steady, rows) for is_steady in (True, False) for rows in ROWS]
    names = [f"{'steady' if is_steady else 'not steady'}, {rows:,} rows" for is_steady, rows in sides]
    sys.stdout.write(f"| change | size | {' | '.join(names)} |\n|---|---|{'---|' * len(sides)}\n")
    for (kind, size), shares in hits.items():
        cells = [f"{np.mean(shares[side]):.0%}" if side in shares else "-" for side in sides]
        sys.stdout.write(f"| {kind} | {size:g} | {' | '.join(cells)} |\n")
    for month in range(MONTHS + 1, 13):
        current = Flights.like(reference, data.count(data.rows.filter(data.month == month)))
        result = drift.compare(reference, current, limits)
        names = ", ".join(f"{c.before.name} ({c.drifted}, distance {c.distance:.2f})" for c in result if c.drifted)
        sys.stdout.write(f"\nmonth {month} as it was: {names or 'no column'}\n")


def alarms(data: Flights, permutations: int, first_seed: int) -> None:
    """Print the share of months with a false alarm."""
    for kind in ("rows", "days"):
        months = 0
        for seed in range(first_seed, first_seed + permutations):
            rows = data.rows[_order(data, kind, seed)]
            reference, blocks = data.reference(rows)
            limits = drift.thresholds(reference, blocks)
            for month in range(MONTHS + 1, 13):
                new = Flights.like(reference, data.count(rows.filter(data.month == month)))
                months += any(column.drifted is not None for column in drift.compare(reference, new, limits))
        of = permutations * (12 - MONTHS)
        sys.stdout.write(f"\n{kind} permuted: {months} of {of} months alarmed ({months / of:.1%})\n")
        sys.stdout.flush()


def _order(data: Flights, kind: str, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    if kind == "rows":
        return chance.permutation(len(data.rows))
    day = data.time.dt.ordinal_day().to_numpy()
    return np.argsort(chance.permutation(day.max() + 1)[day], kind="stable")


def timed(millions: float) -> None:
    """Print how long the stage takes on so many new rows, and what it takes on a thousand."""
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name, ray_running():
        folder, uris = Path(name), {"storage_uri": f"{name}/storage", "tracking_uri": f"sqlite:///{name}/mlflow.db"}
        dataset = processing.stage("example://flights", TARGET, ProcessOptions(), storage_uri=uris["storage_uri"]).run()
        model = training.stage(dataset, TrainOptions(rounds=100, refit=False), storage_uri=uris["storage_uri"]).run()
        storage_uri, tracking_uri = uris["storage_uri"], uris["tracking_uri"]
        version = registry.registration(model, storage_uri=storage_uri, tracking_uri=tracking_uri).run()
        from mlflow import MlflowClient

        client = MlflowClient(uris["tracking_uri"], uris["tracking_uri"])
        client.set_registered_model_alias(version.name, registry.CHAMPION, str(version.version))
        rows = copies(folder, millions)
        pl.read_parquet(folder / "rows" / "copy-000.parquet").head(1000).write_parquet(folder / "few.parquet")
        for source in (folder / "few.parquet", folder / "rows"):
            began = time.monotonic()
            report = champion_drift.stage(version.name, str(source), MonitorOptions(), **uris).run()
            sys.stdout.write(f"{report.rows_in:,} rows of {rows:,}: {time.monotonic() - began:.1f} s\n")
            sys.stdout.flush()
        known = pl.read_parquet(Path(uris["storage_uri"]) / "examples" / "flights" / "*.parquet")
        known.sample(EVIDENTLY_REFERENCE, seed=0).write_parquet(folder / "known.parquet")
        beside(folder, rows)


def beside(folder: Path, rows: int) -> None:
    """Print how long Evidently takes on more and more of the new rows in ``folder``."""
    if importlib.util.find_spec("evidently") is None:
        sys.stdout.write("Evidently is not installed: add --extra evidently to uv run\n")
        return
    for few in sorted({min(number, rows) for number in EVIDENTLY_ROWS}):
        pl.scan_parquet(folder / "rows" / "*.parquet").head(few).sink_parquet(folder / "new.parquet")
        command = [sys.executable, __file__, "evidently", str(folder)]
        try:
            subprocess.run(command, check=True, timeout=EVIDENTLY_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stdout.write(f"Evidently, {few:,} rows: not done after {EVIDENTLY_SECONDS} s\n")
            return


def evidently(folder: Path) -> None:
    """Print how long this process takes to import Evidently and to make its page, and how much memory it had."""
    began = time.monotonic()
    _private.evidently()
    imported = time.monotonic()
    known, new = (pl.read_parquet(folder / f"{name}.parquet") for name in ("known", "new"))
    columns = [
        ColumnStatistics(name=name, kind="categorical" if dtype == pl.String else "numeric", rows=0, missing=0)
        for name, dtype in new.schema.items()
        if not dtype.is_temporal()
    ]
    page = evidently_page.html(known, new, columns)
    took, peak = time.monotonic() - imported, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = f"{len(new):,} rows beside {len(known):,}, {len(columns)} columns"
    sys.stdout.write(f"Evidently, {rows}: {took:.1f} s, and {imported - began:.1f} s for its import, ")
    sys.stdout.write(f"{peak:.1f} GiB, a page of {len(page) / 1e6:.1f} MB\n")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["time"]:
        return timed(float(arguments[1]) if arguments[1:] else 1)
    if arguments[:1] == ["evidently"]:
        return evidently(Path(arguments[1]))
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        data = Flights(Path(name))
        found(data)
        alarms(data, int(arguments[0]) if arguments else 30, int(arguments[1]) if arguments[1:] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
