"""Processing beside Polars and pandas on the flights, repeated: seconds and peak memory, each in its own process.

    python benchmarks/processing.py [MILLIONS] [SIDES]        10   rayworks,polars,pandas

All three read the same Parquet files, reject the rows without a target, make the same features, split by the same
two times, and write the same rows as Parquet; the counts of rows are compared. The other two are written for these
data: they infer nothing, check no value but the target and count no statistics, all of which rayworks does.

Peak memory is the largest sum of the proportional set sizes (PSS: a page that n processes share counts as an n-th in
each) of a side's process and all its descendants, so of Ray's own processes and the object store as well, sampled about
twice a second. CPU seconds are theirs as well. A side that needs more than ``LIMIT`` is ended.
"""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import Watch

GIB = 2**30
TARGET, TIME = "arr_delay", "time_hour"
SHARES = (0.7, 0.85)


def copies(folder: Path, millions: float) -> int:
    """All flights as one Parquet file, and links to it until there are that many million rows. Returns the rows."""
    import polars as pl

    from rayworks.data.examples import flights

    flights.write(str(folder / "months"))
    whole = pl.read_parquet(folder / "months" / "*.parquet")
    source = folder / "rows"
    source.mkdir()
    whole.write_parquet(source / "copy-000.parquet", row_group_size=100_000)
    number = max(1, round(millions * 1e6 / len(whole)))
    for copy in range(1, number):
        os.link(source / "copy-000.parquet", source / f"copy-{copy:03}.parquet")
    return number * len(whole)


def rayworks(source: str, out: str) -> dict[str, int]:
    from rayworks.cluster import places
    from rayworks.cluster.embedded import EmbeddedRay
    from rayworks.data import manifest, processing
    from rayworks.params import ProcessOptions

    places.prepare()
    ray = EmbeddedRay()
    ray.acquire({}, {"include_dashboard": False, "log_to_driver": False})
    dataset = manifest.load(processing.stage(source, TARGET, ProcessOptions(), storage_uri=out).run())
    ray.release()
    return {"rejected": dataset.rows_rejected, **{split.name: split.rows for split in dataset.splits}}


def polars(source: str, out: str) -> dict[str, int]:
    """Lazy, streaming from files to files, so that memory does not grow with the rows."""
    import polars as pl

    rows = pl.scan_parquet(f"{source}/*.parquet")
    good = rows.filter(pl.col(TARGET).is_not_null())
    times = rows.group_by(TIME).len().sort(TIME).collect(engine="streaming")
    first, last = _thresholds(times[TIME], times["len"].cum_sum().to_numpy())
    time = pl.col(TIME)
    featured = good.with_columns(
        pl.col(TARGET).cast(pl.Float64),
        (time.dt.month().cast(pl.Float64)).alias("time_hour_month"),
        (time.dt.ordinal_day().cast(pl.Float64)).alias("time_hour_day_of_year"),
        (time.dt.weekday().cast(pl.Float64)).alias("time_hour_day_of_week"),
        (time.dt.hour().cast(pl.Float64)).alias("time_hour_hour"),
    )
    parts = {
        "rejected": rows.filter(pl.col(TARGET).is_null()),
        "train": featured.filter(time < first),
        "validation": featured.filter((time >= first) & (time < last)),
        "test": featured.filter(time >= last),
    }
    sinks = [
        part.sink_parquet(
            f"{out}/{name}.parquet", compression="zstd", compression_level=1, row_group_size=100_000, lazy=True
        )
        for name, part in parts.items()
    ]
    pl.collect_all(sinks, engine="streaming")
    return {name: pl.scan_parquet(f"{out}/{name}.parquet").select(pl.len()).collect().item() for name in parts}


def pandas(source: str, out: str) -> dict[str, int]:
    import pandas as pd

    rows = pd.read_parquet(source)
    counts = rows[TIME].value_counts().sort_index()
    first, last = _thresholds(counts.index, counts.cumsum().to_numpy())
    rejected = rows[TARGET].isna()
    rows[rejected].to_parquet(f"{out}/rejected.parquet", compression="zstd", compression_level=1)
    good = rows[~rejected].copy()
    del rows
    time = good[TIME].dt
    good[TARGET] = good[TARGET].astype("float64")
    good["time_hour_month"] = time.month.astype("float64")
    good["time_hour_day_of_year"] = time.day_of_year.astype("float64")
    good["time_hour_day_of_week"] = (time.day_of_week + 1).astype("float64")
    good["time_hour_hour"] = time.hour.astype("float64")
    written = {"rejected": int(rejected.sum())}
    for name, chosen in {
        "train": good[TIME] < first,
        "validation": (good[TIME] >= first) & (good[TIME] < last),
        "test": good[TIME] >= last,
    }.items():
        part = good[chosen]
        part.to_parquet(f"{out}/{name}.parquet", compression="zstd", compression_level=1, row_group_size=100_000)
        written[name] = len(part)
    return written


def _thresholds(times: Any, cumulated: Any) -> tuple[Any, Any]:
    """The times from which rows validate and test, by the rule of ``rayworks.data.splitting``."""
    first, last = (int((cumulated < share * cumulated[-1] - 1e-6).sum()) + 1 for share in SHARES)
    return times[first], times[last]


def _side(name: str, source: str, out: str, result: str) -> None:
    began = time.monotonic()
    counts = globals()[name](source, out)
    Path(result).write_text(json.dumps({"seconds": time.monotonic() - began, "counts": counts}))


def measured(name: str, source: Path, scratch: Path) -> dict[str, Any]:
    """Run one side in a fresh process."""
    out, result = scratch / name, scratch / f"{name}.json"
    out.mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=_side, args=(name, str(source), str(out), str(result))
    )
    process.start()
    watch = Watch(process.pid or 0)
    try:
        watch.until(lambda: not process.is_alive())
    finally:
        process.join()
        shutil.rmtree(out)
    measurement = json.loads(result.read_text()) if result.exists() else {}
    return {**measurement, "peak": watch.peak, "cpu": watch.cpu, "ended": watch.ended, "exit": process.exitcode}


def main(millions: float = 10, sides: str = "rayworks,polars,pandas") -> None:
    with tempfile.TemporaryDirectory(prefix="rayworks-") as name:
        scratch = Path(name)
        rows = copies(scratch, millions)
        sys.stdout.write(f"{rows:,} rows in {len(list((scratch / 'rows').iterdir()))} files\n\n")
        sys.stdout.write("| | seconds | CPU seconds | peak memory, GiB |\n|---|---|---|---|\n")
        counts: dict[str, Any] = {}
        for side in sides.split(","):
            measurement = measured(side, scratch / "rows", scratch)
            gib = f"{measurement['peak'] / GIB:.2f}"
            if "seconds" not in measurement:
                why = (
                    "ended: it needs more memory than there is"
                    if measurement["ended"]
                    else f"failed with exit code {measurement['exit']}"
                )
                sys.stdout.write(f"| {side} | {why} | | {gib} |\n")
            else:
                counts[side] = measurement["counts"]
                sys.stdout.write(f"| {side} | {measurement['seconds']:.1f} | {measurement['cpu']:.1f} | {gib} |\n")
            sys.stdout.flush()
    sys.stdout.write(f"\n{json.dumps(counts)}\n")
    if len({json.dumps(count, sort_keys=True) for count in counts.values()}) > 1:
        sys.exit("the sides did not do the same work")


if __name__ == "__main__":
    main(*(float(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
