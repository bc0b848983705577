"""What ``rayworks/cluster/kubernetes/_private.py`` changes of the command ``ray`` still exists and works as it says."""

import contextlib
import importlib.metadata
import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from unittest import mock

import httpx
import pytest

from rayworks.cluster import _private as ray_internals
from rayworks.cluster.kubernetes import _private
from rayworks.cluster.kubernetes.ray_command import WITHOUT_CLIENT_SERVER
from rayworks.free_port import free_port
from tests.ray_head import RayHead, ray_head
from tests.seams.installed_ray import in_a_fresh_python, source
from tests.waiting import eventually

COMMAND = (sys.executable, "-m", "rayworks.cluster.kubernetes.ray_command")
START_SECONDS = 120


def head(*options: str, **env: str) -> contextlib.AbstractContextManager[RayHead]:
    """A head as KubeRay starts one."""
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **env}
    options = ("--num-cpus=0", "--dashboard-agent-listen-port=0", *options)
    return ray_head(*options, env=env, command=COMMAND, seconds=START_SECONDS)


def stored(head: RayHead, name: str) -> str | None:
    """What the GCS of a head stores about its dashboard."""
    from ray._private import ray_constants
    from ray._raylet import GcsClient

    value = GcsClient(address=f"127.0.0.1:{head.port}").internal_kv_get(
        name.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    )
    return value.decode() if value else None


@pytest.mark.parametrize("command", ["start", "kuberay-autoscaler"])
def test_the_commands_that_pods_run_import_none_of_what_others_need(command: str):
    code = f"""
    import sys
    from rayworks.cluster.kubernetes import _private
    _private.import_ray_command("{command}")
    try:
        _private.ray_command(["{command}", "--help"], seconds=1)
    except SystemExit:
        print([name for name in ("ray.serve", "pandas", "fastapi", "aiohttp") if name in sys.modules])
    """
    printed = in_a_fresh_python(textwrap.dedent(code))
    assert printed.startswith(f"Usage: ray {command} ")
    assert printed.endswith("[]")


def test_the_autoscaler_only_waits_for_its_head_and_a_node_that_starts_checks_the_version_itself():
    wait = '"ray","health-check","--address",ray_address,"--skip-version-check",]'
    assert wait in "".join(source("autoscaler/_private/kuberay/run_autoscaler.py").split())
    assert "if not head and not connect_only:\n            self.check_version_info()" in source("_private/node.py")


def test_the_other_commands_of_ray_are_there():
    code = (
        "from rayworks.cluster.kubernetes import _private; _private.ray_command(['job', 'submit', '--help'], seconds=1)"
    )
    assert in_a_fresh_python(code).startswith("Usage: ray job submit ")


def test_ray_start_gives_its_node_the_time_that_it_is_told(monkeypatch: pytest.MonkeyPatch):
    from ray.scripts import scripts

    given: list[float] = []

    @contextlib.contextmanager
    def time_to_start(seconds: float) -> Iterator[None]:
        given.append(seconds)
        yield

    monkeypatch.setattr(ray_internals, "time_to_start", time_to_start)
    monkeypatch.setattr(scripts.start, "callback", lambda **options: given.append(options["num_cpus"]))
    with mock.patch.dict(sys.modules), mock.patch.dict(os.environ), pytest.raises(SystemExit) as ended:
        _private.ray_command(["start", "--address=127.0.0.1:1", "--num-cpus=0"], seconds=90)
    assert (ended.value.code, given) == (0, [90, 0])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("_private/node.py", "self.start_api_server("),
        ("_private/node.py", "if self._ray_params.ray_client_server_port:"),
        ("scripts/scripts.py", "has_ray_client = get_ray_client_dependency_error() is None"),
        ("scripts/scripts.py", "if has_ray_client and ray_client_server_port is None:"),
    ],
)
def test_ray_start_calls_what_is_replaced(file: str, text: str):
    assert text in source(file)


def test_a_head_goes_on_before_its_dashboard_listens(monkeypatch: pytest.MonkeyPatch):
    from ray._private import services
    from ray._private.node import Node
    from ray.experimental import internal_kv

    def start_api_server(*_: object, **__: object) -> tuple[str, mock.Mock]:
        assert internal_kv._internal_kv_get("dashboard") is not None, "it would wait here"
        return "", mock.Mock(process=mock.Mock(poll=lambda: None))

    listens = threading.Event()
    node = mock.MagicMock(all_processes={}, get_log_file_names=lambda *_, **__: ("out", "err"))
    gcs = node.get_gcs_client.return_value
    gcs.internal_kv_get = lambda *_: b"127.0.0.1:8265" if listens.is_set() else None
    monkeypatch.setattr(services, "start_api_server", start_api_server)
    with _private.dashboard_beside_node():
        Node.start_api_server(node, include_dashboard=None, raise_on_failure=False)
    listens.set()
    eventually(lambda: gcs.internal_kv_put.call_args.args[:2] == (b"webui:url", b"127.0.0.1:8265"))


def test_a_head_stores_the_address_of_its_dashboard_once_it_listens():
    dashboard, client = free_port(), free_port()
    ports = (f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")
    with head(*ports) as started:
        assert "ray.util.client.server" in "".join(started.processes.values())
        url = eventually(lambda: stored(started, "webui:url"), START_SECONDS)
        assert url == stored(started, "dashboard") == f"127.0.0.1:{dashboard}"
        assert httpx.get(f"http://{url}/api/version").json()["ray_version"] == importlib.metadata.version("ray")


def test_a_head_without_dashboard_and_client_server_has_no_process_for_them():
    with head("--include-dashboard=false", **{WITHOUT_CLIENT_SERVER: "1"}) as started:
        processes = "".join(started.processes.values())
        assert "gcs_server" in processes
        assert "dashboard/dashboard.py" not in processes
        assert "ray.util.client.server" not in processes
        # The state API fails at once: it finds that nothing listens, not that there is no address yet.
        assert stored(started, "dashboard") == "127.0.0.1:0"
