"""What all parameters of flows have in common: their place in the form of the Prefect UI and on the command line."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def parameter(title: str, description: str | None = None) -> Any:
    """Return the field for a flow's parameter, with its title and description in the form and on the command line.

    Prefect overwrites the title of a flow's parameter with its name and drops the description; only the extra JSON
    schema survives.
    """
    shown: dict[str, Any] = {"title": title} if description is None else {"title": title, "description": description}
    return Field(**shown, json_schema_extra=shown)


def _positions(schema: dict[str, Any]) -> None:
    """Number the fields for the form, as Prefect does for a flow's parameters: PostgreSQL's jsonb keeps no order."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Options(BaseModel):
    """Base class of all options. Frozen and strict: a misspelt option is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=_positions)
