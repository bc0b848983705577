"""Check an installation."""

from prefect import flow

from rayworks.command_line import run
from rayworks.params import FromWorker
from tasks.doctor import doctor as doctor_task


@flow(name="doctor")
def doctor(worker: FromWorker = True) -> list[tuple[str, str]]:
    """Check versions, permissions, addresses and storage from where flow runs execute. Fails if a check fails."""
    return doctor_task(worker)


if __name__ == "__main__":
    run(doctor)
