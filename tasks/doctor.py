"""An installation to what is wrong with it."""

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from rayworks import ClusterError
from rayworks import doctor as checks
from rayworks.runner.task_runner import configured_api_url, worker_environment
from rayworks.settings import Settings


@task(name="doctor")
def doctor(worker: bool) -> list[tuple[str, str]]:
    """Check, and show the outcome as a table."""
    lines: list[checks.Line] = []
    for line in checks.examine(
        Settings(), api_url=configured_api_url(), worker=worker, environment=worker_environment()
    ):
        get_run_logger().info(f"{line.level}: {line.check}: {line.detail}")
        lines.append(line)
    rows = [{"": line.level, "check": line.check, "said": line.detail} for line in lines]
    create_table_artifact(rows, key="doctor", description="What was checked, and what came of it")
    if failed := [line for line in lines if line.level == "fail"]:
        said = "; ".join(f"{line.check}: {line.detail}" for line in failed)
        raise ClusterError(f"{len(failed)} of {len(lines)} checks failed", detail=said, remedy="Do what each says")
    return [(line.check, f"{line.level}: {line.detail}") for line in lines]
