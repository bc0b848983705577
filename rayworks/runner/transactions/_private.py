"""What transactions on Ray use of Prefect's transactions and engines beyond their documented interfaces.

Read in Prefect 3.8.8. ``tests/seams/test_transaction_seams.py`` fails when a release changes it.
"""

import functools
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Staged:
    """What the transaction of a task run staged, and those of the task runs within it."""

    fields: dict[str, Any]
    """Fields of ``Transaction``: key, store, state, hooks."""
    values: dict[str, Any]
    value: Any
    """The record of the result."""
    task_run: Any
    state: Any
    """The last state of the task run."""
    children: "tuple[Staged, ...]"


def values_of(transaction: Any) -> dict[str, Any]:
    """Return what was set in a transaction and in those around it (``_stored_values``, which ``get`` looks up)."""
    parent = transaction.get_parent()
    return {**(values_of(parent) if parent else {}), **transaction._stored_values}


def make_current(transaction: Any) -> None:
    """Make a transaction the current one of this context, as entering it does, without an end (``__var__``)."""
    type(transaction).__var__.set(transaction)


def staged(transaction: Any, *, with_value: bool = False) -> Staged:
    """Return what a transaction has staged, in a form that can be sent.

    The first hook of a rollback is the engine's ``handle_rollback``, which reports the state RolledBack. An engine
    cannot be sent, so the task run and its state are, for :func:`take_over`.

    Args:
        transaction: Of a task run that has ended.
        with_value: Whether to include the record of the result.
    """
    names = ("key", "store", "state", "isolation_level", "overwrite", "write_on_commit")
    fields = {name: getattr(transaction, name) for name in names}
    if not (fields["key"] and fields["write_on_commit"]):
        fields["store"] = None
    hooks = list(transaction.on_rollback_hooks)
    engines = [cast(Any, hook).func.__self__ for hook in hooks if isinstance(hook, functools.partial)]
    engine = next((owner for owner in engines if hasattr(owner, "task_run")), None)
    fields["on_rollback_hooks"] = [hook for hook in hooks if not isinstance(hook, functools.partial)]
    fields["on_commit_hooks"] = list(transaction.on_commit_hooks)
    return Staged(
        fields=fields,
        values=dict(transaction._stored_values),
        value=transaction._staged_value if with_value and fields["store"] else None,
        task_run=engine.task_run if engine else None,
        state=engine.state if engine else None,
        children=tuple(staged(child, with_value=True) for child in transaction.children),
    )


def take_over(transaction: Any, parts: Staged, value: Any) -> None:
    """Let a transaction commit or roll back what another process staged."""
    from prefect.transactions import Transaction

    for name, field in parts.fields.items():
        setattr(transaction, name, field)
    transaction._stored_values = dict(parts.values)
    transaction._staged_value = value
    if parts.task_run is not None:
        report = functools.partial(_report_rolled_back, parts.task_run, parts.state)
        cast(Any, report).log_on_run = False  # as the engine's own
        transaction.on_rollback_hooks = [report, *transaction.on_rollback_hooks]
    for child_parts in parts.children:
        child = Transaction()
        take_over(child, child_parts, child_parts.value)
        transaction.add_child(child)


def _report_rolled_back(task_run: Any, state: Any, _: Any) -> None:
    """Emit the event that ``handle_rollback`` of Prefect's engines emits."""
    from prefect.states import Completed
    from prefect.utilities.engine import emit_task_run_state_change_event

    rolled_back = Completed(name="RolledBack", message="Task rolled back as part of transaction")
    emit_task_run_state_change_event(task_run=task_run, initial_state=state, validated_state=rolled_back)
