"""Registers the work pool, and the deployments of ``prefect.yaml``, with the Prefect server."""

import json
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
        entries = [(entry, _found(client, entry["name"])) for entry in listed["deployments"]]
    listed["deployments"] = [kept(entry, pool, found) for entry, found in entries]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(listed, file)
        file.flush()
        try:
            _deploy(project, file.name)
        finally:
            _restore_references(entries)
    notifications.tell_of_failed_runs()


def _found(client: "SyncPrefectClient", name: str) -> "DeploymentResponse | None":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{name}/{name}")  # a deployment has the name of its flow
    except ObjectNotFound:
        return None


def _restore_references(entries: "list[tuple[dict[str, Any], DeploymentResponse | None]]") -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    with get_client(sync_client=True) as client:
        for entry, found in entries:
            if found and (references := with_references(entry, found)):
                client.update_deployment(found.id, DeploymentUpdate.model_validate(references))


def kept(entry: dict[str, Any], pool: str, found: "DeploymentResponse | None") -> dict[str, Any]:
    """Return an entry of ``prefect.yaml`` for a work pool, with what a person set in the UI and the entry leaves open.

    ``prefect deploy`` keeps the schedules of a deployment if the entry has none. It would start a paused deployment
    again, and delete default parameters and job variables. Those with references are not returned: see
    :func:`with_references`.

    Args:
        entry: The deployment in ``prefect.yaml``.
        pool: The name of the work pool.
        found: The deployment on the server, if there is one.
    """
    left_open = _left_open(entry, found)
    for name in with_references(entry, found):
        del left_open[name]
    job_variables = {name: left_open.pop(name) for name in left_open.keys() & {"job_variables"}}
    paused = {"paused": found.paused} if found else {}
    work_pool = {"name": pool, **job_variables, **entry.get("work_pool", {})}
    return {**paused, **left_open, **entry, "work_pool": work_pool}


def with_references(entry: dict[str, Any], found: "DeploymentResponse | None") -> dict[str, Any]:
    """Return what a person set in the UI, the entry leaves open, and refers to blocks or variables.

    A worker resolves the references for each run. ``prefect deploy`` would resolve them for good: a secret would be
    stored in plain text, and a change of it have no effect.
    """
    return {name: value for name, value in _left_open(entry, found).items() if "{{" in json.dumps(value)}


def _left_open(entry: dict[str, Any], found: "DeploymentResponse | None") -> dict[str, Any]:
    if found is None:
        return {}
    set_by_people = {"parameters": found.parameters, "job_variables": found.job_variables}
    in_entry = entry.keys() | entry.get("work_pool", {}).keys()
    return {name: value for name, value in set_by_people.items() if name not in in_entry}


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
