"""What ``rayworks/cluster/_private.py`` uses of Ray still exists and still works as it says. Starts no Ray cluster."""

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from rayworks import ray_error
from rayworks.cluster import _private
from rayworks.cluster.embedded import EmbeddedRay
from rayworks.cluster.kubernetes import worker_groups
from tests.seams.installed_ray import in_a_fresh_python, in_binary, source


@pytest.mark.parametrize("binary", ["_raylet.so", "core/src/ray/raylet/raylet"])
def test_ray_reads_its_settings_from_the_environment(binary: str):
    for name in (*_private.OOM_RETRIES, *_private.CONNECT_TO_RAYLET, *_private.IDLE_WORKERS):
        assert in_binary(binary, name.removeprefix("RAY_"))


def test_ray_reads_the_port_of_the_gcs_from_the_environment():
    from ray._private import ray_constants

    assert _private.gcs_port(1) == {ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE: "1"}
    assert "os.getenv(ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE)" in source("_private/node.py")


def test_the_state_api_queries_the_cluster_that_the_environment_names():
    from ray._private import services

    os.environ.update(_private.cluster_address("192.0.2.1:1234"))
    try:
        assert services.canonicalize_bootstrap_address(None) == "192.0.2.1:1234"
    finally:
        del os.environ["RAY_ADDRESS"]
    assert "services.canonicalize_bootstrap_address_or_die(" in source("dashboard/utils.py")


def test_ray_train_reads_whether_to_watch_for_preemption():
    (name,) = _private.no_preemption_watcher()
    assert f'ENABLE_PREEMPTION_WATCHER_ENV_VAR = "{name}"' in source("train/v2/_internal/constants.py")
    assert "ENABLE_PREEMPTION_WATCHER_ENV_VAR" in source("train/v2/_internal/execution/controller/controller.py")


def test_import_defaults_take_effect_when_they_are_set_before_ray_is_imported():
    code = """
import os
os.environ.pop("RAY_ENABLE_UV_RUN_RUNTIME_ENV", None)
from rayworks.cluster import _private
_private.set_import_defaults()
from ray._private import auto_init_hook, ray_constants
print(auto_init_hook.enable_auto_connect, ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
"""
    assert in_a_fresh_python(code) == "False False"


def test_workers_start_without_uv_run_even_if_ray_was_imported_first():
    code = """
import os
os.environ.pop("RAY_ENABLE_UV_RUN_RUNTIME_ENV", None)
from ray._private import ray_constants
print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
from rayworks.cluster import _private
_private.set_import_defaults()
print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
"""
    assert in_a_fresh_python(code).split() == ["True", "False"]
    assert "ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV" in source("_private/worker.py")


def test_ray_init_takes_a_node_ip_and_picks_the_same_one_by_default():
    assert '_node_ip_address: str = kwargs.pop("_node_ip_address", None)' in source("_private/worker.py")
    assert _private.node_ip({"_node_ip_address": "10.0.0.1"}) == "10.0.0.1"
    assert "ray.util.get_node_ip_address()" in source("_private/node.py")
    assert _private.node_ip({}).count(".") == 3


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("_private/node.py", "ray._private.services.start_api_server("),
        ("_private/services.py", "ray.experimental.internal_kv._internal_kv_get("),
        ("_private/services.py", "ray._private.utils.get_dashboard_dependency_error() is not None"),
        ("_private/worker.py", "ray._private.parameter.RayParams("),
        ("_private/node.py", "if self._ray_params.include_log_monitor:"),
        ("_private/node.py", 'b"webui:url"'),
        ("_private/node.py", "process_info = ray._private.services.start_raylet("),
        ("_private/node.py", "node_info = ray._private.services.get_node("),
    ],
)
def test_ray_calls_by_their_modules_what_is_replaced_while_an_embedded_ray_starts(file: str, text: str):
    assert text in source(file)


def test_of_an_embedded_ray_only_the_processes_with_a_use_start(monkeypatch: pytest.MonkeyPatch):
    from ray._private import parameter, services, utils, worker

    replaced = services.start_api_server, utils.get_dashboard_dependency_error, parameter.RayParams
    gcs = mock.Mock()
    monkeypatch.setattr(worker, "_global_node", mock.Mock(get_gcs_client=lambda: gcs))
    with _private.only_used_processes({"include_dashboard": False, "log_to_driver": False}):
        assert services.start_api_server(False) == ("", None)  # dashboard_not_awaited, store_that_no_dashboard_runs
        assert utils.get_dashboard_dependency_error() is not None
        assert parameter.RayParams().include_log_monitor is False
    assert gcs.internal_kv_put.call_args.args[:2] == (b"dashboard", b"127.0.0.1:0")
    with _private.only_used_processes({}):
        assert utils.get_dashboard_dependency_error() is None
        assert parameter.RayParams().include_log_monitor is True
        assert parameter.RayParams().dashboard_agent_listen_port == 0
    assert (services.start_api_server, utils.get_dashboard_dependency_error, parameter.RayParams) == replaced


def test_a_dashboard_that_ends_as_it_starts_costs_a_warning(caplog: pytest.LogCaptureFixture):
    from ray._private import ray_constants, worker

    ended = SimpleNamespace(process=SimpleNamespace(poll=lambda: 1))
    gcs = SimpleNamespace(internal_kv_get=lambda *_: None)
    node = SimpleNamespace(
        all_processes={ray_constants.PROCESS_TYPE_DASHBOARD: [ended]},
        get_gcs_client=lambda: gcs,
        get_logs_dir_path=lambda: "/logs",
    )
    with mock.patch.object(worker, "_global_node", node):
        with pytest.raises(TimeoutError, match="does not listen"):
            _private.dashboard_address()
        assert EmbeddedRay().dashboard() is None
    assert "Ray runs without its dashboard: it does not listen, see /logs/dashboard.log" in caplog.text


def test_the_sigterm_handler_is_restored_after_ray_replaced_it():
    from ray._private import utils

    assert "ray._private.utils.set_sigterm_handler(sigterm_handler)" in source("_private/worker.py")
    handler = signal.getsignal(signal.SIGTERM)
    with _private.sigterm_handler_kept():
        utils.set_sigterm_handler(lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray's processes stay in this process's group")
def test_ray_processes_start_in_sessions_of_their_own():
    from ray._private import services

    command = [sys.executable, "-c", "input()"]
    popen = services.ConsolePopen
    with _private.processes_in_own_sessions():
        started = services.start_ray_process(command, "reporter", fate_share=False, pipe_stdin=True).process
    try:
        assert os.getsid(started.pid) == started.pid
    finally:
        started.kill()
        started.wait()
    assert services.ConsolePopen is popen


@pytest.fixture
def guarded_server() -> Iterator[str]:
    """The address of a gRPC server that accepts no token, and records the methods that it was asked for."""
    import grpc

    def refuse(_: object, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")

    class Guarded(grpc.GenericRpcHandler):
        def service(self, _: object) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Guarded()])
    port = server.add_insecure_port("0.0.0.0:0")  # Ray replaces 127.0.0.1 by the address of this machine
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_a_ray_that_wants_another_token_is_recognised(guarded_server: str):
    assert not _private.accepts_this_process(guarded_server, 5)
    assert not _private.accepts_this_process(f"ray://{guarded_server}", 5)


def test_a_server_that_is_not_there_is_for_ray_to_report():
    assert _private.accepts_this_process("127.0.0.1:1", 1)


def test_ray_sends_the_token_that_it_is_told_last_and_none_again(tmp_path: Path):
    code = """
        import os
        from ray import _raylet
        from rayworks.cluster import _private

        def sent():
            return dict(_raylet.AuthenticationTokenLoader.instance().get_token_for_http_header())

        for token in ("a" * 32, "b" * 32, None):
            _private.use_token(token)
            assert _private.sent_token() == token
            print(sent(), os.environ.get("RAY_AUTH_MODE"))
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    printed = in_a_fresh_python(textwrap.dedent(code), env=environment | {"HOME": str(tmp_path)})
    lines = printed.splitlines()
    assert [line.count("a" * 32) for line in lines] == [1, 0, 0]
    assert [line.count("b" * 32) for line in lines] == [0, 1, 0]
    assert [line.rpartition(" ")[2] for line in lines] == ["token", "token", "None"]


@pytest.mark.parametrize("token", ["", "a" * 32])
def test_ray_finds_the_token_of_this_machine_and_sends_it_once_it_is_told_to(token: str, tmp_path: Path):
    code = """
        import os
        from rayworks.cluster import _private
        from ray._raylet import AuthenticationMode, get_authentication_mode
        before = _private.has_token(), get_authentication_mode() == AuthenticationMode.TOKEN
        _private.send_token()
        print(*before, get_authentication_mode() == AuthenticationMode.TOKEN, os.environ["RAY_AUTH_MODE"])
    """
    (tmp_path / ".ray").mkdir()
    if token:
        (tmp_path / ".ray" / "auth_token").write_text(token)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    printed = in_a_fresh_python(textwrap.dedent(code), env=environment | {"HOME": str(tmp_path)})
    assert printed == f"{bool(token)} False True token"


def test_ray_start_prints_the_same_when_a_node_has_started():
    assert f'startup_msg = "{_private.NODE_STARTED}.' in source("scripts/scripts.py")
    assert f'"{_private.NODE_TOO_SLOW}. ' in source("_private/node.py")


MEMORY_MESSAGES = (
    "%d worker(s) were killed due to the node running low on memory. %s",
    "Memory on the node (IP: %s, ID: %s) was %sGB used / %sGB limit (%f)",
)


def test_ray_reports_a_task_that_ran_out_of_memory_in_the_same_words():
    assert all(in_binary("core/src/ray/raylet/raylet", message) for message in MEMORY_MESSAGES)
    message = MEMORY_MESSAGES[0] % (1, MEMORY_MESSAGES[1] % ("10.0.0.1", "0a1b", "1.92", "2.00", 0.96))
    report = ray_error.memory_report(message)
    assert report == ray_error.MemoryReport(
        "10.0.0.1", "Memory on the node (IP: 10.0.0.1, ID: 0a1b) was 1.92GB used / 2.00GB limit"
    )
    assert ray_error.memory_report("ValueError: no") is None


@pytest.mark.parametrize("path", [_private.TASK_SUMMARY_PATH, _private.NODES_PATH, _private.LOGS_PATH])
def test_the_dashboard_has_the_route(path: str):
    assert f'@routes.get("{path}")' in source("dashboard/modules/state/state_head.py")


def test_the_dashboard_serves_log_files():
    folder, _, media_type = _private.LOG_FILE_PATH.rpartition("/")
    assert f'@routes.get("{folder}/{{media_type}}"' in source("dashboard/modules/state/state_head.py")
    assert f'self.media_type not in ["{media_type}", ' in source("util/state/common.py")


def test_a_driver_is_no_worker_and_a_worker_is(ray_session):
    import ray

    assert not _private.is_worker()
    assert ray.get(ray.remote(num_cpus=0)(_private.is_worker).remote())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rayStartParams": {"num-cpus": "3", "num-gpus": "2", "memory": "1000", "resources": '"{\\"licence\\": 2}"'}},
        {"resources": {"CPU": "1500m", "memory": "1Gi", "ssd": "1"}},
    ],
    ids=["its container", "its parameters", "its own field"],
)
def test_ray_s_autoscaler_reads_what_a_worker_of_a_group_has_in_the_same_way(change: dict[str, dict[str, str]]):
    from ray.autoscaler._private.kuberay import autoscaling_config

    limits = {"cpu": "1500m", "memory": "3Gi", "nvidia.com/gpu": "1"}
    pod = {"containers": [{"name": "ray-worker", "resources": {"limits": limits, "requests": {"cpu": "100m"}}}]}
    group = {"groupName": "gpu", "maxReplicas": 1, "rayStartParams": {}, "template": {"spec": pod}} | change
    cluster = {"spec": {"enableInTreeAutoscaling": True, "workerGroupSpecs": [group]}}
    (resources,) = worker_groups.nodes(cluster)
    assert resources == autoscaling_config._get_ray_resources_from_group_spec(group, False)


@pytest.mark.parametrize("address", ["ray://head:10001", "10.0.0.1:6379"])
def test_ray_takes_an_address_with_a_port_as_it_is(address: str):
    assert _private.resolved(address) == address
