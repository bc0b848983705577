"""A flow of two stages; run by the cluster tests as a program in a pod, or on this machine.

    python trial.py FOLDER SECONDS [fail]

Each stage tells in FOLDER when it began and when it ended; a stage that has ended is not run again. The second one works
in a Ray worker for SECONDS, and where that was cut off, for one second when it is run again.
"""

import os
import sys
import time
from pathlib import Path

from prefect import flow, task

from rayworks import RayTaskRunner, resources


@task
@resources(num_cpus=0)
def first(folder: str) -> None:
    if not (Path(folder) / "first.ended").exists():
        with (Path(folder) / "first.begun").open("a") as log:
            log.write("begun\n")
        (Path(folder) / "first.ended").touch()


@task
def second(folder: str, seconds: float) -> None:
    begun = Path(folder) / "second.begun"
    is_first = not begun.exists()
    with begun.open("a") as log:
        log.write("begun\n")
    time.sleep(seconds if is_first else 1)
    (Path(folder) / "second.ended").touch()


@flow(task_runner=RayTaskRunner())
def trial(folder: str, seconds: float, fail: bool = False) -> None:
    first.submit(folder).result()
    if fail:
        raise RuntimeError("the flow fails")
    second.submit(folder, seconds).result()


if __name__ == "__main__":
    (Path(sys.argv[1]) / "pid").write_text(str(os.getpid()))
    trial(sys.argv[1], float(sys.argv[2]), fail="fail" in sys.argv)
