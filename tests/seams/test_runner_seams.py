"""What ``rayworks/runner/_private.py`` uses of Prefect, prefect-ray and Ray still exists and still works as it says."""

import asyncio
import contextvars
import inspect
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import cloudpickle
import pytest
from prefect import allow_failure, flow, task, unmapped
from prefect.assets import materialize
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import FlowRun, TaskRunResult
from prefect.context import AssetContext, AsyncClientContext, FlowRunContext, SyncClientContext
from prefect.events import emit_event
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import opaque, quote
from prefect_ray import RayTaskRunner as PrefectRayTaskRunner
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture

from rayworks.runner import _private
from tests.seams.conftest import Collected
from tests.waiting import eventually


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def a_flow() -> None:
    """Never run."""


def test_the_server_stores_a_state_under_the_id_of_its_event_and_flushes_after_whole_seconds():
    from prefect.server.services import task_run_recorder

    assert '"id": event.id,' in inspect.getsource(task_run_recorder.task_run_from_event)
    start = inspect.getsource(task_run_recorder.TaskRunRecorder.start)
    assert "flush_every=int(self.service_settings().flush_interval)" in start


def test_a_client_says_that_the_api_is_away_when_it_is_entered():
    nobody = {PREFECT_API_URL: "http://127.0.0.1:9/api"}
    with temporary_settings(nobody), pytest.raises(RuntimeError, match=_private.API_IS_AWAY):
        SyncClientContext().__enter__()
    with temporary_settings(nobody), pytest.raises(RuntimeError, match=_private.API_IS_AWAY):
        asyncio.run(_private.enter_async_client())


@task
def add(first: int, second: int) -> int:
    return first + second


@pytest.fixture
def flow_run_context(api, tmp_path: Path) -> Iterator[FlowRunContext]:
    """The context of a flow run that is not known to any server."""
    client = get_client(sync_client=True)
    run = FlowRun(id=uuid4(), name="a-flow-run", flow_id=uuid4())
    store = ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path)))
    runner = ThreadPoolTaskRunner(max_workers=1)
    with runner, FlowRunContext(
        flow=a_flow, flow_run=run, client=client, task_runner=runner, result_store=store, parameters={}
    ) as context:  # fmt: skip
        yield context


def test_what_is_logged_and_emitted_is_collected_instead_of_sent(collected: Collected, api):
    emit_event("rayworks.test", resource={"prefect.resource.id": "rayworks.test"})
    record = logging.makeLogRecord({"name": "rayworks.ray", "levelno": logging.INFO, "msg": "a line"})
    record.flow_run_id = uuid4()
    _private.send_log_record(record)
    _private.wait_for_collected_events()
    assert [event.event for event in collected.events] == ["rayworks.test"]
    (line,) = collected.lines
    for_api = LogCreate.model_validate(_private.for_api(line))
    assert (for_api.message, for_api.flow_run_id) == ("a line", record.flow_run_id)
    assert line.keys() - _private.for_api(line).keys() == {"__payload_size__"}
    assert api.posted == []


def entered(serialized: dict[str, Any], body: Any) -> Any:
    """The result of ``body`` in the flow run's context, as in another process: nothing else is entered."""

    def enter() -> Any:
        with _private.flow_run_context_entered(serialized):
            return body()

    return contextvars.Context().run(enter)


def test_the_context_of_a_flow_run_is_the_same_in_a_worker(flow_run_context: FlowRunContext):
    sent = cloudpickle.loads(cloudpickle.dumps(_private.serialized_flow_run_context()))

    def look() -> tuple[Any, ...]:
        context = FlowRunContext.get()
        assert context is not None
        assert context.detached
        assert context.flow is not None
        assert context.flow_run is not None
        assert context.task_runner._started
        return (
            context.flow.name,
            context.flow_run.id,
            context.result_store.result_storage,
            PREFECT_API_URL.value(),
            context.task_runner,
        )

    name, run_id, storage, api_url, runner = entered(sent, look)
    assert flow_run_context.flow_run is not None
    assert (name, run_id) == ("a-flow", flow_run_context.flow_run.id)
    assert storage == flow_run_context.result_store.result_storage
    assert api_url == PREFECT_API_URL.value()
    assert not runner._started  # the end of the context stops it


def test_the_result_storage_of_a_flow_run_is_sent_as_an_object(flow_run_context: FlowRunContext):
    store = _private.serialized_flow_run_context()["flow_run_context"]["result_store"]
    assert store["result_storage"] is flow_run_context.result_store.result_storage
    assert "cache" not in store


def test_the_api_that_workers_use_is_in_the_serialized_settings(flow_run_context: FlowRunContext):
    sent = _private.serialized_flow_run_context()
    sent["settings_context"]["settings"]["api"]["url"] = "http://other/api"
    assert entered(sent, PREFECT_API_URL.value) == "http://other/api"


def test_records_of_results_do_not_pass_from_one_task_run_to_the_next(flow_run_context: FlowRunContext):
    flow_run_context.task_run_assets[uuid4()] = set()
    copy = _private.flow_run_context_for_task_run(flow_run_context)
    assert copy.task_run_assets == copy.run_results == copy.task_run_dynamic_keys == {}
    assert len(flow_run_context.task_run_assets) == 1
    assert copy.flow_run == flow_run_context.flow_run
    with copy:  # a copy can be entered although the original is
        assert FlowRunContext.get() is copy


def test_the_assets_of_a_task_run_are_known_in_its_worker_and_to_later_task_runs(flow_run_context: FlowRunContext):
    @materialize("s3://bucket/raw.parquet")
    def extract() -> None: ...

    first, second = uuid4(), uuid4()
    sent = _private.serialized_asset_context(extract, first, {})
    assert {asset.key for asset in AssetContext(**sent).downstream_assets} == {"s3://bucket/raw.parquet"}
    sent = _private.serialized_asset_context(add, second, {"first": {TaskRunResult(id=first)}})
    context = AssetContext(**sent)
    assert {asset.key for asset in context.upstream_assets} == {"s3://bucket/raw.parquet"}
    assert context.copy_to_child_ctx


def test_the_engine_runs_a_task_to_its_last_state(collected: Collected):
    arguments: dict[str, Any] = {"wait_for": None, "dependencies": {}, "run": asyncio.run}
    with _private.sync_client_entered():
        state = _private.run_task_to_state(add, task_run_id=uuid4(), parameters={"first": 1, "second": 2}, **arguments)
        assert state.result() == 3
        failed = _private.run_task_to_state(
            add, task_run_id=uuid4(), parameters={"first": 1, "second": ""}, **arguments
        )
        assert failed.is_failed()


def test_the_engine_runs_an_async_task_in_the_given_loop(collected: Collected):
    @task
    async def loop() -> int:
        return id(asyncio.get_running_loop())

    async def close() -> None:
        await _private.exit_async_client(client)

    with asyncio.Runner() as runner:
        context = contextvars.copy_context()
        client = runner.run(_private.enter_async_client(), context=context)
        state = context.run(
            _private.run_task_to_state,
            loop,
            run=lambda coroutine: runner.run(coroutine, context=contextvars.copy_context()),
            task_run_id=uuid4(),
            parameters={},
            wait_for=None,
            dependencies={},
        )
        assert context.run(state.result) == id(runner.get_loop())
        runner.run(close(), context=context)
        assert context.run(AsyncClientContext.get) is None


def test_a_result_is_checked_before_its_task_run_completes(collected: Collected, monkeypatch: pytest.MonkeyPatch):
    from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine

    for engine in (SyncTaskRunEngine, AsyncTaskRunEngine):
        monkeypatch.setattr(engine, "handle_success", vars(engine)["handle_success"])  # restored afterwards

    def refuse_three(task_run_id: UUID, of_task: Any, result: Any) -> None:
        assert task_run_id == ids[-1]
        if result == 3:
            raise ValueError(f"{of_task.name} returned {result}")

    ids: list[UUID] = []

    _private.check_results(refuse_three)

    @task(name="add")
    async def add_async(first: int, second: int) -> int:
        return first + second

    for adding in (add, add_async):
        for second, is_completed in ((2, False), (3, True)):
            ids.append(uuid4())
            state = _private.run_task_to_state(
                adding,
                run=asyncio.run,
                task_run_id=ids[-1],
                parameters={"first": 1, "second": second},
                wait_for=None,
                dependencies=None,
            )
            assert state.is_completed() == is_completed
            assert is_completed or "add returned 3" in str(state.message)


def test_task_runs_share_one_client_that_is_closed_with_its_context(api):
    with _private.sync_client_entered() as entered:
        assert SyncClientContext.get() is entered
        with _private.sync_client_entered() as again:
            assert again.client is entered.client
    with pytest.raises(RuntimeError, match="cannot be started again after closing"):
        entered.client.__enter__()


def test_the_inputs_of_a_task_run_are_found_among_its_parameters(flow_run_context: FlowRunContext):
    by_future, by_state, by_result = uuid4(), Completed(), Completed()
    by_state.state_details.task_run_id = uuid4()
    by_result.state_details.task_run_id = uuid4()
    result = {"rows": [1, 2]}
    _private.link_result(by_result, result)
    inputs = _private.input_task_runs(
        {
            "futures": [PrefectRayFuture(by_future, "a reference")],
            "state": by_state,
            "result": result,
            "none": 1,
        }
    )
    ids = {name: {found.id for found in runs} for name, runs in inputs.items()}
    assert ids == {
        "futures": {by_future},
        "state": {by_state.state_details.task_run_id},
        "result": {by_result.state_details.task_run_id},
        "none": set(),
    }


def test_an_annotation_of_a_parameter_survives_pickling():
    _private.keep_annotations_when_pickled()
    for annotation in (allow_failure, opaque, quote, unmapped):
        copied = pickle.loads(cloudpickle.dumps(annotation([1])))
        assert (type(copied), copied.unwrap()) == (annotation, [1])


FIRST_IMPORT_OF_RAY = """
import sys
{imports}
assert {is_lazy}
from ray.exceptions import RayTaskError
import prefect_ray.task_runners, ray._private.worker
print(ray._private.worker.RayTaskError is RayTaskError, prefect_ray.task_runners.ray.is_initialized())
"""


@pytest.mark.parametrize(
    ("imports", "is_lazy", "printed"),
    [
        ("from prefect_ray import RayTaskRunner", "'ray' in sys.modules", "False False"),  # or the repair is needless
        ("from rayworks import RayTaskRunner", "'ray' not in sys.modules", "True False"),
        ("import prefect_ray\nfrom rayworks import RayTaskRunner", "'ray' not in sys.modules", "True False"),
    ],
    ids=["prefect-ray alone", "rayworks", "prefect-ray before rayworks"],
)
def test_each_module_of_ray_is_imported_once_and_not_before_it_is_used(imports: str, is_lazy: str, printed: str):
    code = FIRST_IMPORT_OF_RAY.format(imports=imports, is_lazy=is_lazy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_ray_stays_as_it_is_once_it_has_been_imported():
    import ray

    _private.import_ray_once()
    assert sys.modules["ray"] is ray


def test_a_runner_of_prefect_ray_starts_without_ray():
    import ray

    runner, was_initialized = PrefectRayTaskRunner[Any](), ray.is_initialized()
    _private.start_without_ray(runner)
    assert runner._started
    assert ray.is_initialized() == was_initialized
    _private.stop_without_ray(runner, None, None, None)
    assert not runner._started


def test_futures_among_the_parameters_are_exchanged_for_the_references_of_ray():
    first, second = object(), object()
    parameters = {"all": [PrefectRayFuture(uuid4(), first), {"one": PrefectRayFuture(uuid4(), second)}], "other": 1}
    exchanged, references = _private.with_object_refs(PrefectRayTaskRunner[Any](), parameters)
    assert exchanged == {"all": [first, {"one": second}], "other": 1}
    assert references == [first, second]


def test_the_remote_options_around_a_submit_are_known():
    assert _private.remote_options() == {}
    with remote_options(num_cpus=2), remote_options(num_gpus=1):
        assert _private.remote_options() == {"num_cpus": 2, "num_gpus": 1}


def test_a_future_knows_its_final_state_once_it_has_waited(ray_session):
    import ray

    future = PrefectRayFuture[Any](uuid4(), ray.put(Completed(message="done")))
    assert _private.final_state(future) is None
    future.wait()
    state = _private.final_state(future)
    assert state is not None
    assert state.message == "done"


def test_a_value_is_serialized_as_ray_serializes_results(ray_session):
    import ray

    _private.serialize({"reference": ray.put(1)})
    with pytest.raises(TypeError, match="cannot pickle"):
        _private.serialize(number for number in range(3))


def test_an_exit_of_ray_is_told_from_one_of_a_task():
    from ray._raylet import raise_sys_exit_with_custom_error_message

    with pytest.raises(SystemExit) as of_ray:
        raise_sys_exit_with_custom_error_message("The process receives a SIGTERM.")
    assert _private.is_rays_own(of_ray.value)
    assert not _private.is_rays_own(SystemExit(3))


def test_a_reference_has_a_future_with_its_value_or_its_error(ray_session):
    import ray

    @ray.remote(num_cpus=0)
    def fail() -> None:
        raise ValueError("as it should")

    assert _private.concurrent_future(ray.put(1)).result(30) == 1
    assert isinstance(_private.concurrent_future(fail.remote()).exception(30), ValueError)


def test_the_output_of_workers_comes_with_the_names_of_their_tasks(ray_session):
    import ray

    @ray.remote(num_cpus=0)
    def talk() -> None:
        print("a worker prints")  # noqa: T201

    batches: list[dict[str, Any]] = []
    _private.add_worker_output_handler("rayworks_test", batches.append)
    try:
        ray.get(talk.remote())
        eventually(lambda: [batch for batch in batches if "a worker prints" in batch["lines"]])
    finally:
        _private.remove_worker_output_handler("rayworks_test")
    (batch,) = (batch for batch in batches if "a worker prints" in batch["lines"])
    assert batch["task_name"] == "talk"
    assert batch["pid"]


def test_the_names_that_ray_gives_to_its_terminal_output_are_known():
    from ray._private import ray_constants, worker

    assert f'add_handler(\n                "{_private.TERMINAL_HANDLER}"' in inspect.getsource(worker.connect)
    assert ray_constants.LOG_PREFIX_EVENT_SUMMARY == _private.AUTOSCALER_EVENT


def test_a_raylet_advises_in_these_words_when_it_has_killed_workers():
    import ray

    binary = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    assert all(advice.encode() in binary for advice in _private.MEMORY_ADVICE)
