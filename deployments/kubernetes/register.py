"""Register the work pool ``kubernetes`` and every deployment of ``prefect.yaml`` with the Prefect server, with this pod's image.

    python register.py WORK_POOL_JSON

Runs before the worker starts; safe to repeat. What was edited in the work pool's form is replaced: edit the JSON file.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

POOL = "kubernetes"
SERVER_SECONDS = 300


def template(path: str) -> dict[str, Any]:
    """The base job template, with this pod's image and namespace as defaults."""
    from kubernetes import client, config

    config.load_incluster_config()
    pod: Any = client.CoreV1Api().read_namespaced_pod(os.environ["POD_NAME"], os.environ["POD_NAMESPACE"])
    job = json.loads(Path(path).read_text())
    job["variables"]["properties"]["image"]["default"] = pod.spec.containers[0].image
    job["variables"]["properties"]["namespace"]["default"] = pod.metadata.namespace
    return job


def wait_for_server() -> None:
    """Return once the Prefect server answers, which takes a minute on a new database."""
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(
                    f"The Prefect server {os.environ['PREFECT_API_URL']} does not answer ({error}): see the log of its pod."
                )
            time.sleep(1)


def main(path: str) -> None:
    """Register."""
    job = template(path)
    wait_for_server()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        prefect("work-pool", "create", POOL, "--type", "kubernetes", "--base-job-template", file.name, "--overwrite")
    prefect("deploy", "--all")
    schedule("sweep/sweep")


def schedule(deployment: str) -> None:
    """Set the schedules of a deployment going."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        for one in found.schedules:
            client.update_deployment_schedule(found.id, one.id, active=True)


def prefect(*arguments: str) -> None:
    """Prefect's command, without questions."""
    subprocess.run(
        ["prefect", "--no-prompt", *arguments], check=True, env={**os.environ, "PREFECT_DEFAULT_WORK_POOL_NAME": POOL}
    )


if __name__ == "__main__":
    main(sys.argv[1])
