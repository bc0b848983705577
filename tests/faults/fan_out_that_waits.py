"""A fan-out of items that take a while. The test of stopped fan-outs runs it as a program.

python fan_out_that_waits.py FOLDER
"""

import os
import sys
import time
from pathlib import Path

import rayworks

ITEMS, CHUNK = 400, 10


def wait(number: int, folder: str) -> int:
    Path(folder, f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.02)
    return number


if __name__ == "__main__":
    result = rayworks.fan_out(wait, range(ITEMS), arguments={"folder": sys.argv[1]}, chunk_items=CHUNK)
    assert [number for number, _ in result.results()] == list(range(ITEMS))
    sys.stdout.write(f"found {result.found} of {result.items}\n")
