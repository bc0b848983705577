"""``kubectl apply -k deployments/kubernetes`` gives a working installation."""

from pathlib import Path

import pytest

from tests.cluster.installation import STORAGE, Installation
from tests.cluster.kubernetes_access import Namespace
from tests.cluster.runs import FlowRun

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]


def test_the_api_server_accepts_the_raycluster_as_it_is_shipped(overlay: tuple[Namespace, Path]):
    namespace, folder = overlay
    namespace.kubectl("apply", "-f", str(folder.parent / "base/base/raycluster.yaml"), "--dry-run=server")


@pytest.fixture(scope="module")
def processed(installation: Installation) -> FlowRun:
    """A flow run that the API started."""
    rows = "length,kind\n" + "".join(f"{number},{'long' if number > 50 else 'short'}\n" for number in range(100))
    installation.on_storage(f"cat > {STORAGE}/rows.csv", stdin=rows)
    parameters = {"uri": f"{STORAGE}/rows.csv", "target": "kind"}
    run = installation.start("process/process", parameters, env={"RAYWORKS_RAY_ADDRESS": ""})
    run.wait_for_end()
    return run


@pytest.mark.xdist_group("processed")
def test_a_flow_run_started_through_the_api_completes_in_a_pod_of_its_own(
    installation: Installation, processed: FlowRun
):
    assert processed.state()["type"] == "COMPLETED", processed.log()
    assert installation.exists(f"{STORAGE}/datasets/rows*")


@pytest.mark.xdist_group("processed")
def test_the_report_of_a_flow_run_opens_in_a_browser_through_a_port_forward_to_mlflow(
    installation: Installation, processed: FlowRun, browser
):
    of_run = {"flow_runs": {"id": {"any_": [processed.id]}}, "artifacts": {"key": {"any_": ["report"]}}}
    [artifact] = installation.prefect("POST", "/artifacts/filter", of_run)
    link = artifact["data"].rpartition("(")[2].rstrip(")")
    with installation.namespace.port_forward("mlflow", 5000) as address:
        assert link.startswith("http://127.0.0.1:5000/"), "the port of the documented port-forward"
        page = browser.new_page()
        page.goto(link.replace("127.0.0.1:5000", address))
        heading = page.frame_locator("iframe").get_by_role("heading", name="100 rows are ready")
        heading.wait_for(timeout=120_000)
        page.close()


@pytest.mark.xdist_group("permissions")
@pytest.mark.parametrize(
    ("verb", "what", "allowed"),
    [
        ("create", "rayclusters.ray.io", "yes"),
        ("delete", "rayservices.ray.io", "yes"),
        ("update", "leases.coordination.k8s.io", "yes"),
        ("get", "pods/log", "yes"),
        ("list", "events", "yes"),
        ("list", "nodes", "yes"),
        ("create", "pods", "no"),
        ("delete", "pods", "no"),
        ("get", "secrets", "no"),
        ("create", "jobs.batch", "no"),
        ("create", "deployments.apps", "no"),
    ],
)
def test_a_flow_may_manage_ray_and_leases_and_change_nothing_else(
    installation: Installation, verb: str, what: str, allowed: str
):
    flow = f"--as=system:serviceaccount:{installation.namespace.name}:rayworks-flow"
    resource, _, subresource = what.partition("/")
    answer = installation.namespace.kubectl(
        "auth", "can-i", verb, resource, f"--subresource={subresource}", flow, check=False
    )
    assert answer.strip() == allowed
