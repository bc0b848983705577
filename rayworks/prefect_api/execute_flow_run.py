"""Execute the flow run of a pod: ``python -m rayworks.prefect_api.execute_flow_run``, with ``PREFECT__FLOW_RUN_ID``.

It does what ``prefect flow-run execute`` does, which imports Prefect in three processes, one after the other. One of
them prepares a workspace; an image needs none. Here the process that runs the flow imports Prefect while the one that
supervises it does.
"""

import subprocess
import sys
from datetime import UTC, datetime

import anyio

ENGINE = "engine"
"""The argument of the process that runs the flow."""


async def supervise() -> None:
    """Start the process that runs the flow, and return when it has ended and its state was reported."""
    command = [sys.executable, "-m", "rayworks.prefect_api.execute_flow_run", ENGINE]
    # In a session of its own, since the process group of a cancelled flow run is signalled.
    engine = await anyio.open_process(command, stdin=subprocess.PIPE, stdout=None, stderr=None, start_new_session=True)
    async with engine:
        from rayworks.prefect_api import _private, lost_runs
        from rayworks.settings import Settings

        job = Settings().job_name
        await _private.supervise_flow_run(
            engine, lambda flow_run: lost_runs.is_given_up(flow_run, job, datetime.now(UTC))
        )


def main() -> None:
    """Supervise, or run the flow."""
    if sys.argv[1:] != [ENGINE]:
        anyio.run(supervise)
        return
    from rayworks.prefect_api import _private

    _private.run_supervised_engine()


if __name__ == "__main__":
    main()
