"""What the sweep deletes and spares, by Leases alone. Its RayClusters are suspended: they have no pods."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayworks.cluster.kubernetes import lease, raycluster_manifest
from rayworks.cluster.kubernetes import sweep as sweeping
from rayworks.cluster.kubernetes.api import KubernetesApi
from rayworks.cluster.kubernetes.kinds import LEASE, RAYCLUSTER
from rayworks.cluster.kubernetes.objects import Object, is_being_deleted
from tests.cluster.kubernetes_access import Namespace
from tests.cluster.raycluster_manifests import Place, ray_cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes]


@pytest.mark.minutes(1)
def test_a_driver_that_renews_late_after_an_outage_keeps_its_cluster_and_one_that_never_does_loses_it(
    namespace: Namespace, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3)
    monkeypatch.setattr(sweeping, "RENEW_SECONDS", 4)
    api = KubernetesApi(namespace.name)
    manifest = ray_cluster(Place(namespace.name, image, "", "", 0), suspend=True)
    needs = raycluster_manifest.Needs("late", namespace.name)
    cluster = api.create(RAYCLUSTER, raycluster_manifest.for_run(manifest, needs))
    labels = {lease.CLUSTER_LABEL: "late", raycluster_manifest.FLOW_RUN_LABEL: "a-run"}

    def renew() -> None:
        lease.renew(api, "late-driver", holder="driver", labels=labels, owner=cluster)

    def clusters() -> list[Object]:
        return api.list_objects(RAYCLUSTER, labels=raycluster_manifest.MANAGED_BY_SELECTOR)

    def is_abandoned() -> bool:
        leases = api.list_objects(LEASE, labels=raycluster_manifest.MANAGED_BY_SELECTOR)
        return lease.is_abandoned(clusters()[0], leases, datetime.now(UTC))

    def sweep() -> sweeping.Swept:
        return sweeping.sweep(storage_uri=str(tmp_path), namespace=namespace.name)

    renew()
    assert sweep() == sweeping.Swept([], {})
    eventually(is_abandoned, 20)
    with ThreadPoolExecutor() as pool:
        swept = pool.submit(sweep)
        time.sleep(2)  # it has checked once, and waits for the drivers that live
        while not swept.done():
            renew()
            time.sleep(0.5)
        assert swept.result() == sweeping.Swept([], {})
    eventually(is_abandoned, 20)
    final_sweep = sweep()
    assert final_sweep.deleted == ["late"]
    assert list(final_sweep.lost_runs) == ["a-run"]
    assert all(is_being_deleted(cluster) for cluster in clusters())
