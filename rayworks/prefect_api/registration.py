"""Registers the work pool, and the deployments of ``prefect.yaml``, with the Prefect server."""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rayworks.errors import ClusterError
from rayworks.prefect_api import address, notifications

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

PROJECT = "prefect.yaml"


def register(project: Path, pool: str, kind: str, template: dict[str, Any], *, overwrite: bool) -> None:
    """Register a work pool and all deployments of a project, and let the server tell of failed runs. Safe to repeat.

    Args:
        project: The folder of ``prefect.yaml``.
        pool: The name of the work pool.
        kind: Its type: ``process``, ``kubernetes``.
        template: Its base job template.
        overwrite: Whether the template replaces that of a pool that exists.

    Raises:
        ClusterError: Prefect refuses a deployment, or the credentials of this process.
        httpx.HTTPError: The server does not respond.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    with address.refusal_explained(), get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool, type=kind, base_job_template=template))
        if overwrite:  # the template alone: a pool that a person has paused stays paused
            client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))
        listed = yaml.safe_load((project / PROJECT).read_text())
        listed["deployments"] = [kept(entry, pool, _found(client, entry["name"])) for entry in listed["deployments"]]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(listed, file)
        file.flush()
        _deploy(project, file.name)
    notifications.tell_of_failed_runs()


def _found(client: "SyncPrefectClient", name: str) -> "DeploymentResponse | None":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{name}/{name}")  # a deployment has the name of its flow
    except ObjectNotFound:
        return None


def kept(entry: dict[str, Any], pool: str, found: "DeploymentResponse | None") -> dict[str, Any]:
    """Return an entry of ``prefect.yaml`` for a work pool, with what a person set in the UI and the entry leaves open.

    ``prefect deploy`` keeps the schedules of a deployment if the entry has none. It would start a paused deployment
    again, and delete default parameters and job variables.

    Args:
        entry: The deployment in ``prefect.yaml``.
        pool: The name of the work pool.
        found: The deployment on the server, if there is one.
    """
    set_by_people = {"paused": found.paused, "parameters": found.parameters} if found else {}
    job_variables = {"job_variables": found.job_variables} if found else {}
    work_pool = {"name": pool, **job_variables, **entry.get("work_pool", {})}
    return {**set_by_people, **entry, "work_pool": work_pool}


def _deploy(project: Path, file: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file],
        cwd=project,
        env={**os.environ, "PWD": str(project)},  # for the pull step of prefect.yaml
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode:
        raise ClusterError(
            "the deployments could not be registered",
            where=str(project / PROJECT),
            detail=run.stdout[-2000:],
            remedy="Correct what Prefect names, and try again",
        )
