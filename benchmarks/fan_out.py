"""A function over many items: rayworks, bare Ray tasks, Ray's Pool, Python's process pool and Prefect's map.

Usage: ``python benchmarks/fan_out.py [case …] [--sides side …] [--rounds 5]``. A case is ``<items>`` for items that
cost nothing, or ``<items>x<milliseconds>``. All sides call the same function and write the same columns. Ray runs
before the first one, with its workers started; ``concurrent.futures`` starts its processes within its time. The
chunks of all sides but rayworks are chosen with knowledge of what an item costs. The sides take turns, round by
round, and the median of each counts: memory that is used for the first time costs a virtual machine more than the
work. Prefect's map runs once, on a sample, and is extrapolated. Prints a table and, as its last line, JSON.
"""

import argparse
import concurrent.futures
import json
import math
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rayworks.items.fan_out import of_source
from rayworks.items.options import FanOutOptions
from rayworks.items.sources import Inline
from rayworks.progress import silent

CASES = ("10000", "1000000", "1000x50")
SAMPLE = 1000
"""Items of Prefect's map."""
SLOTS = os.cpu_count() or 1


def work(item: int, milliseconds: float = 0.0) -> int:
    """Wait without computing, so that several slots do not slow each other down."""
    if milliseconds:
        time.sleep(milliseconds / 1000)
    return item


def write(folder: str, first: int, results: Sequence[int]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"item": pa.array(range(first, first + len(results))), "result": pa.array(results)})
    parquet.write_table(table, f"{folder}/{first:012}.parquet", compression="zstd")
    return len(results)


def chunk_of(items: int, milliseconds: float) -> int:
    """Return a size of chunks that takes a second, or less where there are few."""
    return max(1, min(math.ceil(1000 / max(milliseconds, 0.001)), math.ceil(items / (8 * SLOTS))))


def rayworks(items: int, milliseconds: float, folder: str) -> None:
    options = FanOutOptions(arguments={"milliseconds": milliseconds})
    result = of_source(work, Inline(range(items)), options, storage_uri=folder).create(silent)
    assert result.items - result.failed == items


def bare_ray(items: int, milliseconds: float, folder: str) -> None:
    import ray

    size = chunk_of(items, milliseconds)

    def process(first: int) -> int:
        return write(folder, first, [work(item, milliseconds) for item in range(first, min(first + size, items))])

    remote: Any = ray.remote(process)
    assert sum(ray.get([remote.remote(first) for first in range(0, items, size)])) == items


def ray_pool(items: int, milliseconds: float, folder: str) -> None:
    from ray.util.multiprocessing import Pool

    with Pool(SLOTS) as pool:
        call = partial(work, milliseconds=milliseconds)
        _write_all(pool.imap(call, range(items), chunksize=chunk_of(items, milliseconds)), folder, items)


def process_pool(items: int, milliseconds: float, folder: str) -> None:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(SLOTS, mp_context=context) as pool:
        call = partial(work, milliseconds=milliseconds)
        _write_all(pool.map(call, range(items), chunksize=chunk_of(items, milliseconds)), folder, items)


def _write_all(results: Any, folder: str, items: int) -> None:
    assert write(folder, 0, list(results)) == items


def prefect_map(items: int, milliseconds: float, folder: str) -> None:
    from prefect import flow, task

    from rayworks import RayTaskRunner

    call = task(name="work")(work)

    @flow(task_runner=RayTaskRunner(), name="map")
    def run() -> None:
        write(folder, 0, call.map(range(items), milliseconds=milliseconds).result())

    run()


SIDES: dict[str, Callable[[int, float, str], None]] = {
    "rayworks": rayworks,
    "bare Ray": bare_ray,
    "Ray Pool": ray_pool,
    "process pool": process_pool,
    "Prefect map": prefect_map,
}


def measure(side: str, items: int, milliseconds: float) -> float:
    """Return the seconds of one side."""
    folder = tempfile.mkdtemp()
    try:
        started = time.perf_counter()
        SIDES[side](items, milliseconds, folder)
        return time.perf_counter() - started
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    from rayworks import ray_running
    from rayworks.prefect_api import server

    os.environ["RAYWORKS_STORAGE_URI"] = tempfile.mkdtemp()
    embedded = server.start() if "Prefect map" in chosen.sides else None
    measured: dict[str, dict[str, float]] = {}
    with ray_running():
        if embedded:
            embedded.wait()
        for side in [side for side in chosen.sides if side in ("rayworks", "bare Ray")]:
            measure(side, 500, 10.0)  # starts the workers, and imports what they need
        for case in chosen.cases:
            items, _, milliseconds = case.partition("x")
            rounds: dict[str, list[float]] = {side: [] for side in chosen.sides}
            for number in range(chosen.rounds):
                for side in chosen.sides:
                    if side == "Prefect map" and number:
                        continue
                    count = min(int(items), SAMPLE) if side == "Prefect map" else int(items)
                    rounds[side].append(measure(side, count, float(milliseconds or 0)) * int(items) / count)
            measured[case] = {side: statistics.median(seconds) for side, seconds in rounds.items()}
            for side, seconds in rounds.items():
                each = " ".join(f"{second:.3f}" for second in seconds)
                sys.stdout.write(f"{case:>12} {side:14} {measured[case][side]:9.3f} s   of {each}\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps({"slots": SLOTS, "most_mib_of_driver": memory, "seconds": measured}) + "\n")


if __name__ == "__main__":
    main()
