"""What there is to read after a RayCluster is gone: its events, the logs of its pods and of Ray, and its tasks."""

import json
import logging
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from rayworks import storage
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.errors import StorageError

SECONDS = 20
"""All of it may take so long: a run that is cancelled has half a minute to end."""
LINES = 2000
"""Of each log, the last ones."""
RAY_LOGS = ("worker-", "job-driver", "python-core-driver", "gcs_server", "raylet", "monitor", "autoscaler")

logger = logging.getLogger(__name__)


def location(name: str, *, storage_uri: str) -> str:
    """The folder for what is saved of a RayCluster."""
    return storage.join(storage.absolute(storage_uri), "clusters", name)


def save(api: KubernetesApi, name: str, *, storage_uri: str, dashboard: str | None = None) -> str:
    """Save what can be had, within :data:`SECONDS`; what cannot is told in the log, since the cluster has to go all the same.

    Args:
        dashboard: Address of Ray's dashboard, for the logs of Ray and the tasks.

    Returns:
        The folder.
    """
    folder = location(name, storage_uri=storage_uri)
    deadline = time.monotonic() + SECONDS
    try:
        cluster, pods = api.cluster(name), api.pods(name)
        _write(folder, "raycluster.json", json.dumps(cluster, indent=1))
        _write(folder, "pods.json", json.dumps(pods, indent=1))
        _write(folder, "events.txt", "\n".join(_event_lines(api.events(), name)))
        if dashboard:
            _save_of_ray(folder, dashboard, deadline)
        for pod in pods:
            _save_pod(api, folder, pod, deadline)
    except (RefusedError, StorageError, OSError, ValueError) as error:
        logger.warning("Not all that RayCluster %s leaves could be saved in %s: %s", name, folder, error)
    return folder


def _save_pod(api: KubernetesApi, folder: str, pod: dict[str, Any], deadline: float) -> None:
    for status in pod.get("status", {}).get("containerStatuses", []):
        for previous in (False, True) if status.get("restartCount") else (False,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took more than {SECONDS} seconds")
            name = f"{pod['metadata']['name']}/{status['name']}{'-before-its-restart' if previous else ''}.log"
            try:
                _write(
                    folder, name, api.pod_log(pod["metadata"]["name"], status["name"], lines=LINES, previous=previous)
                )
            except RefusedError as error:  # a container that never started has none
                logger.debug("no log of %s: %s", name, error)


def _save_of_ray(folder: str, dashboard: str, deadline: float) -> None:
    """The tasks, and the log of each Ray process, by the dashboard's State API."""
    _write(folder, "tasks.json", json.dumps(_get(dashboard, "/api/v0/tasks/summarize")["data"]["result"], indent=1))
    nodes = _get(dashboard, "/api/v0/nodes")["data"]["result"]["result"]
    for node in nodes:
        if node.get("state") != "ALIVE":
            continue
        listed = _get(dashboard, "/api/v0/logs", node_id=node["node_id"])["data"]["result"]
        for file in {file for files in listed.values() for file in files if file.startswith(RAY_LOGS)}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took more than {SECONDS} seconds")
            text = _ask(dashboard, "/api/v0/logs/file", node_id=node["node_id"], filename=file, lines=str(LINES))
            if text.strip():
                _write(folder, f"ray/{node.get('node_ip')}/{file}", text)


def _get(dashboard: str, path: str, **query: str) -> Any:
    return json.loads(_ask(dashboard, path, **query))


def _ask(dashboard: str, path: str, **query: str) -> str:
    url = f"{dashboard}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode(errors="replace")


def _event_lines(events: list[dict[str, Any]], cluster: str) -> Iterator[str]:
    """Those about the cluster and what KubeRay named after it."""
    for event in events:
        about, when = event["involvedObject"], event.get("lastTimestamp") or event.get("eventTime") or ""
        if f"{about.get('name')}-".startswith(f"{cluster}-"):
            which = f"{about.get('kind')}/{about.get('name')}"
            yield f"{when} {event.get('type')} {which} {event.get('reason')}: {event.get('message')}"


def _write(folder: str, name: str, text: str) -> None:
    storage.write_bytes(storage.join(folder, name), text.encode())
