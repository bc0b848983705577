"""A flow of two stages; the cluster tests run it as a deployment, and as a program in a pod.

    python two_stages.py FOLDER SECONDS [fail]

Each stage reports in FOLDER when it starts and when it ends; a stage that has ended does not run again. The second one
works in a Ray worker for SECONDS. Where that was interrupted, it works for one second when it runs again.
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
        with (Path(folder) / "first.started").open("a") as log:
            log.write("started\n")
        (Path(folder) / "first.ended").touch()


@task
def second(folder: str, seconds: float) -> None:
    started = Path(folder) / "second.started"
    is_first_run = not started.exists()
    with started.open("a") as log:
        log.write("started\n")
    time.sleep(seconds if is_first_run else 1)
    (Path(folder) / "second.ended").touch()


@flow(task_runner=RayTaskRunner())
def two_stages(folder: str, seconds: float, fail: bool = False) -> None:
    first.submit(folder).result()
    if fail:
        raise RuntimeError("the flow fails")
    second.submit(folder, seconds).result()


if __name__ == "__main__":
    (Path(sys.argv[1]) / "pid").write_text(str(os.getpid()))
    two_stages(sys.argv[1], float(sys.argv[2]), fail="fail" in sys.argv)
