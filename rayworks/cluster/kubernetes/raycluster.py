"""A Ray cluster that KubeRay creates from a manifest: for one run, or shared by many and kept warm.

A driver uses it in phases, each in its own module: it creates or shares the RayCluster (:mod:`.acquisition`), waits for
the head (:mod:`.waiting`), connects (:mod:`.routes`, and :mod:`.upload` from outside), and works while a thread watches
the cluster (:mod:`.watch`). At the end, or when a phase fails, it releases what it has acquired so far.
"""

import concurrent.futures
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayworks.capacity import Nodes
from rayworks.cluster import _private
from rayworks.cluster.existing import ExistingRay
from rayworks.cluster.kubernetes import (
    acquisition,
    api,
    diagnosis,
    raycluster_manifest,
    routes,
    upload,
    waiting,
    worker_groups,
)
from rayworks.cluster.kubernetes.acquisition import Acquired
from rayworks.cluster.kubernetes.api import KubernetesApi, RefusedError
from rayworks.cluster.kubernetes.driver_node import DriverNode
from rayworks.cluster.kubernetes.objects import Object
from rayworks.cluster.kubernetes.observer import ClusterObserver
from rayworks.cluster.kubernetes.routes import Route
from rayworks.cluster.kubernetes.watch import Watch
from rayworks.errors import ClusterError
from rayworks.settings import Settings

TOKEN_KEY = "auth_token"
"""The key of KubeRay's Secrets with a token."""

LOSS_SECONDS = 5
"""How long after the connection has failed the watch may take to see that the head is lost."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Connection:
    """What a driver has while it uses a cluster."""

    acquired: Acquired
    observer: ClusterObserver
    head: Object
    route: Route
    ray: ExistingRay
    watch: Watch

    def end(self, *, is_lost: bool) -> None:
        self.watch.stop()
        if is_lost:
            # If the head's node does not respond, Ray takes two minutes to disconnect: delete the cluster before.
            self.acquired.release()
            self.ray.release()
        else:
            self.ray.release()
            self.acquired.release(dashboard=self.route.dashboard)
        self.route.close()


class KubeRayCluster:
    """The cluster that the manifest ``settings.ray_address`` describes.

    A driver in a pod joins it as a node without CPUs. A driver outside reaches the client port through a port-forward,
    and its working directory and rayworks are uploaded.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.ray_address is not None
        self.address = settings.ray_address
        self.lost: concurrent.futures.Future[ClusterError] = concurrent.futures.Future()
        self.is_elsewhere = not api.in_a_pod()
        self._settings = settings
        self._connection: _Connection | None = None
        self._has_token = False

    def nodes_to_come(self) -> Nodes | None:
        return worker_groups.nodes(raycluster_manifest.read(self.address))

    def why_none_comes(self, requests: Mapping[str, float]) -> str:
        try:
            snapshot = self._connected().observer.snapshot(complete=True)
        except (RefusedError, ClusterError):  # the watch reports that
            return ""
        return worker_groups.why_none_comes(requests, snapshot, datetime.now(UTC))

    def acquire(self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]) -> None:
        node = None if self.is_elsewhere else DriverNode()
        try:
            kubernetes = KubernetesApi(self._settings.namespace)
            acquired = acquisition.acquire(
                kubernetes,
                self._settings,
                manifest_uri=self.address,
                flow_run_id=os.environ.get("PREFECT__FLOW_RUN_ID"),
            )
            self._connection = self._connect(acquired, node, environment, init_kwargs)
        except BaseException as error:
            if node:
                node.end()
            if isinstance(error, RefusedError):
                raise error.explained() from error
            raise

    def _connect(
        self,
        acquired: Acquired,
        node: DriverNode | None,
        environment: Mapping[str, str],
        init_kwargs: Mapping[str, Any],
    ) -> _Connection:
        observer = ClusterObserver(acquired.api, acquired.name, acquired.uid)
        route = watch = None
        try:
            head = waiting.await_head(observer, seconds=self._settings.ray_start_seconds)
            self._authenticate(acquired)
            watch = Watch(observer, head, self.lost)
            watch.start()
            route = routes.from_a_pod(head, node) if node else routes.from_outside(head)
            ray = ExistingRay(route.ray_address)
            ray.acquire(*self._reachable(environment, init_kwargs))
        except BaseException as error:
            is_lost = False
            if watch:
                if isinstance(error, ClusterError):
                    is_lost = bool(concurrent.futures.wait([self.lost], LOSS_SECONDS).done)
                watch.stop()
            acquired.release(dashboard=route.dashboard if route and not is_lost else None)
            if route:
                route.close()
            if is_lost:
                raise self.lost.result() from error
            raise
        return _Connection(acquired, observer, head, route, ray, watch)

    def _authenticate(self, acquired: Acquired) -> None:
        """Let this process send the token that the cluster wants, unless it has one of its own."""
        if acquired.token_secret is None:
            return
        if _private.TOKEN_VARIABLE in os.environ:
            _private.send_token()
        else:
            _private.use_token(acquired.api.secret_value(acquired.token_secret, TOKEN_KEY))
            self._has_token = True

    def _reachable(
        self, environment: Mapping[str, str], init_kwargs: Mapping[str, Any]
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Return environment and arguments for the pods: with this machine's files, and without its addresses."""
        if not self.is_elsewhere:
            return environment, init_kwargs
        runtime_env = {**upload.runtime_env(Path.cwd()), **(init_kwargs.get("runtime_env") or {})}
        logger.info("The workers get the files of %s, without what .gitignore names", runtime_env["working_dir"])
        return upload.reachable_from_pods(environment), {**init_kwargs, "runtime_env": runtime_env}

    def release(self) -> None:
        if self._connection is not None:
            self._connection.end(is_lost=self.lost.done())
            self._connection = None
        if self._has_token:
            _private.use_token(None)
            self._has_token = False

    def dashboard(self) -> str | None:
        connection = self._connected()
        if not connection.acquired.has_dashboard:
            return None
        namespace, name = connection.acquired.api.namespace, connection.acquired.name
        head = routes.pod(connection.head)
        if self._settings.ray_dashboard_url:
            return self._settings.ray_dashboard_url.format(namespace=namespace, name=name)
        if self.is_elsewhere:
            return connection.route.dashboard
        return f"http://127.0.0.1:8265 after kubectl port-forward -n {namespace} {head} 8265"

    def explain(self, task: str, error: BaseException) -> ClusterError | None:
        try:
            snapshot = self._connected().observer.snapshot(complete=True)
        except (RefusedError, ClusterError):  # the watch reports that
            snapshot = None
        return diagnosis.out_of_memory(task, str(error), snapshot, datetime.now(UTC))

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise RuntimeError("The cluster must be acquired first.")
        return self._connection
