"""Check an installation."""

from typing import Annotated

from prefect import flow

from rayworks.command_line import run
from rayworks.form import parameter
from tasks.doctor import doctor as doctor_task


@flow(name="doctor")
def doctor(
    worker: Annotated[
        bool, parameter("From a worker", "Start Ray, as a flow run would, and run the checks on its workers too.")
    ] = True,
) -> list[tuple[str, str]]:
    """Check versions, permissions, addresses and storage from where flow runs execute. Fails if a check fails."""
    return doctor_task(worker)


if __name__ == "__main__":
    run(doctor)
