"""Telling people what happened, by the notification block that ``RAYWORKS_NOTIFY`` names."""

import logging
from datetime import timedelta

from rayworks.prefect_api import automations
from rayworks.settings import Settings

logger = logging.getLogger(__name__)

FAILED_RUNS = "rayworks tells of failed runs"
"""The name of the automation."""

TAG = "rayworks"
"""The tag of every deployment of ``prefect.yaml``, which its runs inherit."""

QUIET = timedelta(hours=1)
"""Runs of one name are told once in so long: a watch of a source that is away fails every minute."""

BODY = """{{ event.resource['prefect.state-message'] }}
{{ flow_run|ui_url }}"""


def tell(subject: str, body: str) -> None:
    """Send a notification. Where ``RAYWORKS_NOTIFY`` is not set, nothing is sent. A failure is a warning in the log."""
    slug = Settings().notify
    if slug is None:
        return
    from prefect.blocks.core import Block

    try:
        block = Block.load(slug)
        with block.raise_on_failure():  # pyright: ignore[reportAttributeAccessIssue]: every notification block has it
            block.notify(body, subject)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # whatever any kind of block raises: a run must not fail by it
        logger.warning("Nobody was told `%s` by %s (RAYWORKS_NOTIFY): %s", subject, slug, error)


def tell_of_failed_runs() -> None:
    """Let the server tell of failed and crashed runs of rayworks' deployments: a crashed run cannot tell itself.

    Makes, changes or deletes an automation, as ``RAYWORKS_NOTIFY`` says. Where there is no such block, the log says so.

    Raises:
        httpx.HTTPError: The server does not respond.
    """
    from prefect.automations import AutomationCore, EventTrigger, Posture, SendNotification
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    slug = Settings().notify
    if slug is None:
        automations.remove(FAILED_RUNS)
        return
    kind, _, name = slug.partition("/")
    try:
        with get_client(sync_client=True) as client:
            block = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        logger.warning(
            "Nobody is told of failed runs: there is no block %s (RAYWORKS_NOTIFY). Make it in the Prefect UI under "
            "Blocks, and start the installation again.",
            slug,
        )
        return
    trigger = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
        for_each={"prefect.resource.name"},
        posture=Posture.Reactive,
        threshold=1,
        within=QUIET,
    )
    subject = "{{ flow.name }} {{ flow_run.name }}: {{ event.resource['prefect.state-name'] }}"
    action = SendNotification(block_document_id=block.id, subject=subject, body=BODY)
    description = "Tells of failed and crashed runs by the block that RAYWORKS_NOTIFY names."
    automations.put(AutomationCore(name=FAILED_RUNS, description=description, trigger=trigger, actions=[action]))
