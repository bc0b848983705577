"""Saves what may explain a failure before a RayCluster is deleted: events, logs of its pods and of Ray, and tasks."""

import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx

from rayworks import storage
from rayworks.cluster import _private
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.kinds import RAYCLUSTER
from rayworks.cluster.kubernetes.objects import Object, last_seen, pod_selector
from rayworks.errors import StorageError

SECONDS = 20
"""How long all of it may take: a cancelled run has half a minute to end."""
REQUEST_SECONDS = 5
LINES = 2000
"""How many of the last lines of each log are saved."""

logger = logging.getLogger(__name__)


def location(name: str, *, storage_uri: str) -> str:
    """Return the folder for what is saved of a RayCluster."""
    return storage.join(storage.absolute(storage_uri), "clusters", name)


def save(api: KubernetesApi, name: str, *, storage_uri: str, dashboard: str | None = None) -> str:
    """Save what is available within :data:`SECONDS`. Errors are logged: the cluster must be deleted all the same.

    Args:
        api: Of the cluster's namespace.
        name: Of the RayCluster.
        storage_uri: The storage.
        dashboard: URL of the Ray dashboard, for Ray's logs and tasks.

    Returns:
        The folder.
    """
    folder = location(name, storage_uri=storage_uri)
    deadline = time.monotonic() + SECONDS
    try:
        cluster, pods = api.get(RAYCLUSTER, name), api.pods(labels=pod_selector(name))
        _write(folder, "raycluster.json", json.dumps(cluster, indent=1))
        _write(folder, "pods.json", json.dumps(pods, indent=1))
        _write(folder, "events.txt", "\n".join(_event_lines(api.events(), name)))
        for pod in pods:
            _save_pod(api, folder, pod, deadline)
        if dashboard:  # the last one: of a head that has just started, it does not listen yet
            _save_ray(folder, dashboard, deadline)
    except (RefusedError, StorageError, httpx.HTTPError, OSError) as error:
        logger.warning("Not everything of RayCluster %s could be saved in %s: %s", name, folder, error)
    except Exception:  # the routes of Ray's dashboard are not documented, and may return anything
        logger.exception("Not everything of RayCluster %s could be saved in %s", name, folder)
    return folder


def _save_pod(api: KubernetesApi, folder: str, pod: Object, deadline: float) -> None:
    """Save the logs of a pod's containers, also those from before a restart."""
    pod_name = pod["metadata"]["name"]
    statuses = pod.get("status", {})
    for status in (*statuses.get("initContainerStatuses", ()), *statuses.get("containerStatuses", ())):
        for previous in (False, True) if status.get("restartCount") else (False,):
            _check_time(deadline)
            file = f"{pod_name}/{status['name']}{'-before-its-restart' if previous else ''}.log"
            try:
                _write(folder, file, api.pod_log(pod_name, status["name"], lines=LINES, previous=previous))
            except RefusedError as error:  # a container that never started has no log
                logger.debug("no log of %s: %s", file, error)


def _save_ray(folder: str, dashboard: str, deadline: float) -> None:
    """Save the summary of Ray's tasks, and the log of each Ray process."""
    token = os.environ.get(_private.TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with httpx.Client(base_url=dashboard, headers=headers, timeout=REQUEST_SECONDS, follow_redirects=True) as client:

        def get(path: str, **query: str) -> httpx.Response:
            return client.get(path, params=query).raise_for_status()

        tasks = get(_private.TASK_SUMMARY_PATH).json()["data"]["result"]
        _write(folder, "tasks.json", json.dumps(tasks, indent=1))
        nodes: list[dict[str, Any]] = get(_private.NODES_PATH).json()["data"]["result"]["result"]
        for node in nodes:
            if node.get("state") != "ALIVE":
                continue
            by_component = get(_private.LOGS_PATH, node_id=node["node_id"]).json()["data"]["result"]
            for file in {file for files in by_component.values() for file in files}:
                if file.startswith(_private.LOG_FILE_PREFIXES):
                    _check_time(deadline)
                    query = {"node_id": node["node_id"], "filename": file, "lines": str(LINES)}
                    text = get(_private.LOG_FILE_PATH, **query).content.decode(errors="replace")
                    if text.strip():
                        _write(folder, f"ray/{node.get('node_ip')}/{file}", text)


def _check_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"it took more than {SECONDS} seconds")


def _event_lines(events: list[Object], cluster: str) -> Iterator[str]:
    """Yield a line for each event about the cluster, and about what KubeRay named after it."""
    for event in events:
        involved = event["involvedObject"]
        if f"{involved.get('name')}-".startswith(f"{cluster}-"):
            thing = f"{involved.get('kind')}/{involved.get('name')}"
            yield f"{last_seen(event)} {event.get('type')} {thing} {event.get('reason')}: {event.get('message')}"


def _write(folder: str, name: str, text: str) -> None:
    storage.write_bytes(storage.join(folder, name), text.encode())
