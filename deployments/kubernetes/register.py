"""Register the work pool ``PREFECT_DEFAULT_WORK_POOL_NAME`` and every deployment of ``prefect.yaml``.

    python register.py WORK_POOL_JSON

Runs before the worker starts, and is safe to repeat. Flow runs use the image of this pod. Changes that were made in the
work pool's form are overwritten: edit the JSON file instead.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from rayworks.errors import RayworksError
from rayworks.prefect_api import registration

ROOT = Path(__file__).resolve().parents[2]
SERVER_SECONDS = 300
"""How long to wait for the Prefect server."""


def base_job_template(path: str) -> dict[str, Any]:
    """Read the base job template, and set this pod's image and namespace as its defaults."""
    from kubernetes import client, config

    config.load_incluster_config()
    pod: Any = client.CoreV1Api().read_namespaced_pod(os.environ["POD_NAME"], os.environ["POD_NAMESPACE"])
    template = json.loads(Path(path).read_text())
    variables = template["variables"]["properties"]
    variables["image"]["default"] = pod.spec.containers[0].image
    variables["namespace"]["default"] = pod.metadata.namespace
    return template


def wait_for_server() -> None:
    """Wait until the Prefect server responds. On a new database this takes a minute."""
    api_url = os.environ["PREFECT_API_URL"]
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        try:
            response = httpx.get(f"{api_url}/health", timeout=5)
            if not response.is_server_error:  # one that wants a key refuses this, and responds
                return
            response.raise_for_status()
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                sys.exit(f"The Prefect server does not respond: {api_url} ({error}). Check the log of its pod.")
            time.sleep(1)


def main(path: str) -> None:
    """Register the work pool and the deployments."""
    pool, template = os.environ["PREFECT_DEFAULT_WORK_POOL_NAME"], base_job_template(path)
    wait_for_server()
    try:
        registration.register(ROOT, pool, "kubernetes", template, overwrite=True)
    except RayworksError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
