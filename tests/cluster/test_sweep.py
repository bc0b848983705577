"""What the sweep deletes and spares, by Leases alone. Its RayClusters are suspended: they have no pods."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayworks.cluster.kubernetes import lease, raycluster_manifest
from rayworks.cluster.kubernetes import sweep as sweeping
from rayworks.cluster.kubernetes.api import KubernetesApi
from tests.cluster.conftest import Namespace
from tests.cluster.failing_clusters import Place, ray_cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes]


def test_a_driver_that_renews_late_after_an_outage_keeps_its_cluster_and_one_that_never_does_loses_it(
    namespace: Namespace, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3)
    monkeypatch.setattr(sweeping, "RENEW_SECONDS", 4)
    api = KubernetesApi(namespace.name)
    manifest = ray_cluster(Place(namespace.name, image, "", "", 0), suspend=True)
    cluster = api.create_cluster(
        raycluster_manifest.for_run(manifest, raycluster_manifest.Needs("late", namespace.name))
    )
    labels = {lease.CLUSTER_LABEL: "late", raycluster_manifest.FLOW_RUN_LABEL: "a-run"}

    def renew() -> None:
        api.renew_lease("late-driver", holder="driver", seconds=3, labels=labels, owner=cluster)

    def is_abandoned() -> bool:
        return lease.is_abandoned(api.clusters()[0], api.leases(), datetime.now(UTC))

    def sweep() -> sweeping.Swept:
        return sweeping.sweep(storage_uri=str(tmp_path), namespace=namespace.name)

    renew()
    assert sweep() == sweeping.Swept([], {})
    eventually(is_abandoned, 20)
    with ThreadPoolExecutor() as pool:
        swept = pool.submit(sweep)
        time.sleep(2)  # it has looked once, and waits for those that live
        for _ in range(3):
            renew()
            time.sleep(1)
        assert swept.result() == sweeping.Swept([], {})
    eventually(is_abandoned, 20)
    gone = sweep()
    assert gone.deleted == ["late"]
    assert list(gone.lost_runs) == ["a-run"]
    assert api.clusters() == [] or "deletionTimestamp" in api.clusters()[0]["metadata"]
