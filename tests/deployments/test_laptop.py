"""``deployments/local.py`` is a laptop's whole installation: what it starts runs, survives, tells and ends."""

import http.server
import json
import signal
import sqlite3
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import yaml

from rayworks.monitoring import arrivals
from rayworks.prefect_api import automations, looks, notifications, registration
from tests.deployments.installation import QUICK, ROOT, Installation, Runs, arrive, using
from tests.deployments.postgresql import PrefectOnPostgreSQL
from tests.waiting import eventually

pytestmark = [pytest.mark.xdist_group("laptop"), pytest.mark.timeout(900)]


WAITS = """
import pathlib, subprocess, time
from prefect import flow

@flow
def waits(begun: str):
    subprocess.Popen(["sleep", "600"], start_new_session=True)  # what a run leaves behind
    pathlib.Path(begun).touch()
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("laptop"))
    installation.start()
    yield installation
    installation.process.terminate()
    installation.process.wait(timeout=120)


@pytest.fixture
def runs(laptop: Installation) -> Iterator[Runs]:
    with using(laptop.api_url) as client:
        yield Runs(laptop, client)


@pytest.fixture(scope="module")
def postgresql() -> Generator[str]:
    """A Prefect server on PostgreSQL."""
    prefect = PrefectOnPostgreSQL()
    prefect.start_database()
    prefect.start_server()
    yield prefect.api_url
    prefect.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a server on each database."""
    sqlite = request.param == "sqlite"
    api_url = request.getfixturevalue("laptop").api_url if sqlite else request.getfixturevalue("postgresql")
    with using(api_url) as client:
        yield client


class Webhook(http.server.ThreadingHTTPServer):
    """Receives notifications."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[dict[str, str]] = []

    def told(self, subject: str) -> str:
        """The body of the first notification whose subject begins so; none: nothing."""
        return next((each["body"] for each in self.received if each["subject"].startswith(subject)), "")


class _Receiver(http.server.BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def webhook(laptop: Installation) -> Generator[Webhook]:
    """A server for the notifications of the laptop's installation."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    with Webhook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        message = {"subject": "{{subject}}", "body": "{{body}}"}
        with using(laptop.api_url):
            CustomWebhookNotificationBlock(name="ops", url=url, json_data=message).save("ops")
            notifications.tell_of_failed_runs()  # as the next registration does
        yield server
        server.shutdown()


def register() -> None:
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    registration.register(ROOT, "local", "process", template, overwrite=False)


def test_what_people_set_in_the_ui_survives_another_registration(client: Any):
    def schedule(deployment: str, **fields: Any) -> None:
        found = client.read_deployment_by_name(deployment)
        client.request("POST", "/deployments/{id}/schedules", path_params={"id": found.id}, json=[fields])

    def change(deployment: str, **fields: Any) -> None:
        found = client.read_deployment_by_name(deployment)
        client.request("PATCH", "/deployments/{id}", path_params={"id": found.id}, json=fields)

    def deployments() -> dict[str, Any]:
        shown = {"paused", "parameters", "job_variables", "tags", "concurrency_options", "global_concurrency_limit"}
        found = sorted(client.read_deployments(), key=lambda deployment: deployment.name)
        return {
            deployment.name: (
                deployment.model_dump(mode="json", include=shown),
                sorted(each.model_dump_json(exclude={"updated", "created"}) for each in deployment.schedules),
            )
            for deployment in found
        }

    if not client.read_deployments():  # the laptop's has done it already
        register()
    nightly = {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    watched = {"watch": "sales", "source": "/data/sales", "target": "amount"}
    schedule("pipeline/pipeline", schedule=nightly, active=True)
    schedule("watch/watch", schedule={"cron": "0 4 * * *"}, active=True, slug="sales", parameters=watched)
    schedule("watch/watch", schedule={"cron": "0 5 * * *"}, active=False, parameters={**watched, "watch": "old"})
    change("tune/tune", paused=True, parameters={"options": {"trials": 3}}, job_variables={"env": {"A": "b"}})
    # Each run resolves these: a registration that did would store the secret, and fails without the block.
    referring = {
        "env": {"PASSWORD": "{{ prefect.blocks.secret.no-such-block }}", "HOST": "{{ prefect.variables.host }}"}
    }
    change("train/train", parameters={"name": "of {{ owner }}"}, job_variables=referring)
    before = deployments()
    assert before["tune"][0]["paused"]
    register()
    assert deployments() == before
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert set(before) == {entry["name"] for entry in entries}
    assert all(shown["tags"] == ["rayworks"] for shown, _ in before.values())
    assert before["retrain"][0]["global_concurrency_limit"]["limit"] == 1
    assert before["retrain"][0]["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_an_automation_is_changed_and_never_doubled_and_stays_disabled(client: Any):
    from prefect.automations import AutomationCore, DoNothing, EventTrigger, Posture

    def automation(event: str) -> AutomationCore:
        trigger = EventTrigger(expect={event}, posture=Posture.Reactive, threshold=1)
        return AutomationCore(name="example", trigger=trigger, actions=[DoNothing()])

    client.create_automation(automation("first"))
    client.create_automation(automation("first"))  # two runs made it at once
    automations.put(automation("first"))
    [made] = client.read_automations_by_name("example")
    stored = client.request("GET", f"/automations/{made.id}").json()
    automations.put(automation("first"))
    assert client.request("GET", f"/automations/{made.id}").json() == stored  # its trigger has not begun anew
    client.pause_automation(made.id)
    automations.put(automation("second"))
    [changed] = client.read_automations_by_name("example")
    assert (changed.id, changed.enabled, changed.trigger.expect) == (made.id, False, {"second"})
    automations.remove("example")
    assert client.read_automations_by_name("example") == []


def test_failed_runs_and_failed_batches_are_told(runs: Runs, webhook: Webhook):
    from prefect.states import Cancelling

    source = runs.installation.folder / "poison"
    source.mkdir()
    (source / "2025.csv").write_text("n,amount\n1,2\n")
    parameters = {"watch": "poison", "source": str(source), "target": "amount"}
    options = {"options": {"settle_seconds": 0, "first": "batch"}}
    runs.completed(runs.start("watch/watch", **parameters, **options))
    [retraining] = runs.named("poison-batch-1")
    runs.client.set_flow_run_state(retraining.id, Cancelling())  # as the button Cancel does
    assert runs.ended(retraining.id).state.is_cancelled()
    runs.completed(runs.start("watch/watch", **parameters, **options))
    failed = runs.start("watch/watch", **{**parameters, "watch": "wrong", "target": "price"})
    assert "its run was cancelled" in webhook.told("Batch 1 of poison failed")
    assert runs.ended(failed).state.is_failed()
    body = eventually(lambda: webhook.told("watch wrong: Failed"), 60, lambda: str(webhook.received))
    assert "There is no such column: price" in body
    assert "Correct the parameter Target" in body
    assert f"/runs/flow-run/{failed}" in body


def test_an_event_starts_a_look_and_a_file_that_arrived_is_learned_once(runs: Runs, webhook: Webhook):
    source = runs.installation.folder / "lake"
    source.mkdir()

    def looked() -> int:
        named = [run for run in runs.named("lake") if run.name == "lake"]
        return len([run for run in named if run.state.is_completed()])

    parameters = {"watch": "lake", "source": str(source), "target": "amount", "options": {"settle_seconds": 0}, **QUICK}
    arrive(source, "2024")
    runs.completed(runs.start("watch/watch", **parameters))
    assert runs.named("lake-batch") == []
    arrive(source, "2025")
    event = {"event": looks.EVENT, "resource": {"prefect.resource.id": "rayworks.watch.lake"}}
    complete = {**event, "id": "8f4f7c8e-3f53-4f0f-9a53-6c1f9c8c1d00", "occurred": "2026-01-01T00:00:00Z"}
    httpx.post(f"{runs.installation.api_url}/events", json=[complete]).raise_for_status()
    eventually(lambda: looked() == 2, 90, runs.installation.output, every=0.5)
    [run] = runs.named("lake-batch")
    assert (run.name, run.parameters["arrived"]) == ("lake-batch-1", [str(source / "2025.csv")])
    runs.completed(run.id, seconds=400)
    eventually(lambda: looked() == 3, 90, runs.installation.output, every=0.5)  # the batch was closed
    ledger = arrivals.read(arrivals.location(str(runs.installation.folder / "storage"), "lake"))
    assert {number: result.state for number, result in ledger.results.items()} == {0: "history", 1: "done"}
    assert webhook.told("lake version 1 was ").startswith(("Promoted: ", "Not promoted: "))
    assert len(runs.named("lake-batch")) == 1
    assert len(runs.client.read_automations_by_name("rayworks watch lake")) == 1
    [dataset] = (runs.installation.folder / "storage" / "datasets").glob("lake-*/dataset.json")
    assert json.loads(dataset.read_text())["rows_in"] == 600


def test_ctrl_c_ends_everything_and_the_run_that_was_working_has_crashed(runs: Runs):
    """The last test of the module, since it ends the installation."""
    from prefect import Flow

    folder = runs.installation.folder
    (folder / "waits.py").write_text(WAITS)
    waits: Any = Flow.from_source(str(folder), entrypoint="waits.py:waits")
    waits.deploy("waits", work_pool_name="local", print_next_steps=False)
    working = runs.start("waits/waits", begun=str(folder / "begun"))
    eventually((folder / "begun").exists, 240, runs.installation.output)
    assert any("sleep 600" in line for line in runs.installation.processes())
    runs.installation.process.send_signal(signal.SIGINT)
    runs.installation.process.wait(timeout=120)
    assert runs.installation.processes() == []
    with closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as database:
        [(state,)] = database.execute("SELECT state_type FROM flow_run WHERE id = ?", [str(working)])
    assert state == "CRASHED"
