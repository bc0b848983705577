"""A flow whose tasks wait for ever, one of them for nested Ray work. The tests of cancellation run it as a program.

The arguments are ``FOLDER``, with ``fail`` for a flow that fails; or ``serve``, to serve it as a deployment.
"""

import sys
import time
from pathlib import Path

from prefect import flow, task

from rayworks import RayTaskRunner, resources


@task
@resources(num_cpus=0)
def coordinate(folder: str) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Child:
        def wait(self) -> None:
            (Path(folder) / "child").touch()
            time.sleep(600)

    ray.get(Child.remote().wait.remote())


@task
def sleep(folder: str, deep: bool) -> None:
    (Path(folder) / "sleeps").touch()
    while True:
        time.sleep(600 if deep else 0.01)  # Python raises a cancellation only between two sleeps


@flow(task_runner=RayTaskRunner(), name="waits")
def waits(folder: str, fail: bool = False) -> None:
    futures = [coordinate.submit(folder), sleep.submit(folder, deep=not fail)]
    if fail:
        while len(list(Path(folder).iterdir())) < 2:
            time.sleep(0.01)
        raise RuntimeError("the flow fails while its tasks run")
    for future in futures:
        future.wait()


if __name__ == "__main__":
    from rayworks.prefect_api import server

    if server := server.start():
        server.wait()
    if sys.argv[1:] == ["serve"]:
        waits.serve("served")
    else:
        waits(sys.argv[1], fail="fail" in sys.argv)
