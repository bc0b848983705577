"""A fan-out on a RayCluster whose worker pool is at zero, and whose workers are killed while they work."""

import pytest

from tests.cluster.installation import STORAGE, Installation
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1200), pytest.mark.minutes(3)]

ITEMS = 20_000
SECONDS = 600


def test_a_fan_out_that_loses_its_workers_has_every_item_once(installation: Installation):
    items = f"{STORAGE}/waits.jsonl"
    installation.run_in_a_pod("python", "-c", f"open('{items}', 'w').write('0.01\\n' * {ITEMS})")
    run = installation.start("fan_out/fan_out", {"function": "time:sleep", "items": items}, env={})
    from_item_4000 = f"{STORAGE}/fan-out/sleep-*/results/00000000[4-9]*.parquet"
    eventually(
        lambda: installation.exists(from_item_4000), SECONDS, lambda: f"it never got far: {run.log()}", every=0.5
    )
    run.ray.kill_pods("worker")
    assert run.wait_for_end(SECONDS) == "COMPLETED", run.log()
    program = f"""
import glob, json
from rayworks.items import parts
(folder,) = glob.glob('{STORAGE}/fan-out/sleep-*')
print(json.dumps([number for number, _ in parts.read_results(folder)] == list(range({ITEMS}))))
"""
    assert installation.run_in_a_pod("python", "-c", program).strip() == "true"
    run.ray.assert_deleted()
