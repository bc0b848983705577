"""Prefect automations that rayworks makes: one for each name, however many runs ask for it."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

OWN = {"id": True, "owner_resource": True, "enabled": True, "trigger": {"id"}}
"""What the server or a person decides about an automation."""


def put(wanted: "AutomationCore") -> None:
    """Make an automation, or change the one of that name. One that a person has disabled stays disabled.

    Raises:
        httpx.HTTPError: The server does not respond, or refuses it.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(wanted.name)
        if not found:
            client.create_automation(wanted)
            found = client.read_automations_by_name(wanted.name)
        # Two runs may have made one each: both keep the same one.
        kept, *doubles = sorted(found, key=lambda automation: str(automation.id))
        _delete(client, doubles)
        if _content(kept) != _content(wanted):  # a change of the trigger would forget the events that it has counted
            client.update_automation(kept.id, wanted.model_copy(update={"enabled": kept.enabled}))


def remove(name: str) -> None:
    """Delete the automation of that name, if there is one.

    Raises:
        httpx.HTTPError: The server does not respond.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _delete(client, client.read_automations_by_name(name))


def _delete(client: "SyncPrefectClient", automations: "list[Automation]") -> None:
    from prefect.exceptions import ObjectNotFound

    for automation in automations:
        with suppress(ObjectNotFound):  # another run deleted it
            client.delete_automation(automation.id)


def _content(automation: "AutomationCore") -> dict[str, Any]:
    return automation.model_dump(mode="json", exclude=OWN)
