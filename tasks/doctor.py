"""Check an installation."""

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from rayworks import ClusterError
from rayworks import doctor as checks
from rayworks.settings import Settings


@task(name="doctor")
def doctor(worker: bool) -> list[tuple[str, str]]:
    """Run the checks, and show their results as a table. Fails if a check fails."""
    lines: list[checks.Line] = []
    for line in checks.examine(Settings(), worker=worker):
        get_run_logger().info(f"{line.level}: {line.check}: {line.detail}")
        lines.append(line)
    rows = [{"": line.level, "check": line.check, "result": line.detail} for line in lines]
    create_table_artifact(rows, key="doctor", description="Checks of the installation")
    if failed := [line for line in lines if line.level == "fail"]:
        detail = "; ".join(f"{line.check}: {line.detail}" for line in failed)
        raise ClusterError(f"{len(failed)} of {len(lines)} checks failed", detail=detail, remedy="Fix what they report")
    return [(line.check, f"{line.level}: {line.detail}") for line in lines]
