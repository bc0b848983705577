"""The threads of OpenMP and BLAS in a Ray worker process: as many as its task has CPUs."""

import os


class TaskThreads:
    """What the libraries in this process compute with.

    Ray tells them of a task's CPUs by ``OMP_NUM_THREADS``. They read it when they are loaded, and keep the number for
    all later tasks of the process (https://github.com/ray-project/ray/issues/35937).
    """

    def __init__(self) -> None:
        self._threads = ""

    def set(self) -> None:
        """Set the threads of libraries that are loaded to what ``OMP_NUM_THREADS`` is for the task that runs now."""
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads == self._threads or not threads.isdecimal():
            return
        from threadpoolctl import threadpool_limits

        threadpool_limits(int(threads))  # takes milliseconds where many libraries are loaded, so only for a change
        self._threads = threads


process = TaskThreads()
"""Those of this process, for functions that Ray calls by their names."""
