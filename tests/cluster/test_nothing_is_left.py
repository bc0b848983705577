"""When all other tests have ended, the namespace of the installation holds nothing of their runs' Ray."""

import pytest

from tests.cluster.installation import Installation
from tests.waiting import eventually

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.timeout(900),
    pytest.mark.last,
]

SECONDS = 300
"""Within which the sweep deletes a shared cluster that is idle for a minute, and Kubernetes its pods."""


def test_no_raycluster_pod_or_lease_of_a_run_is_left(installation: Installation):
    namespace = installation.namespace

    def remaining() -> list[str]:
        objects = namespace.list("rayclusters") + namespace.list("pods", "ray.io/cluster")
        objects += namespace.list("leases", "rayworks.io/cluster")
        return [resource["metadata"]["name"] for resource in objects]

    eventually(lambda: not remaining(), SECONDS, lambda: f"left: {remaining()}", every=2)
