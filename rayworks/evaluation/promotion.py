"""Promotion: a model becomes the champion by moving an alias of MLflow's registry, and goes back by moving it again.

Whatever changes the champion holds one lock.
"""

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rayworks import reuse, storage, storage_lock
from rayworks.errors import RegistryError
from rayworks.evaluation import gate, registry
from rayworks.evaluation.registry import CHAMPION, PREVIOUS
from rayworks.params import PromoteOptions
from rayworks.records import Evaluation, ModelVersion, PromotionDecision, ServeCheck
from rayworks.storage_lock import Lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOLD = "rayworks.on_hold"


def promote(
    candidate: ModelVersion,
    evaluation: Evaluation,
    serve_check: ServeCheck | None,
    options: PromoteOptions,
    *,
    tracking_uri: str,
    storage_uri: str,
) -> PromotionDecision:
    """Make the candidate the champion if every check passes; store the decision with its numbers in either case.

    Raises:
        RegistryError: The registry cannot be reached, or the champion changed since the evaluation.
        StorageError: Another process changes the champion, and does not end.
    """
    with _champion_lock(candidate.name, storage_uri) as lock:
        key = reuse.digest(candidate.fingerprint)  # not its version: every registry has a version 1
        uri = reuse.location(storage_uri, "decisions", candidate.name, key) + ".json"
        current = registry.champion(candidate.name, tracking_uri=tracking_uri)
        if current and current.version == candidate.version and storage.exists(uri):
            decision = storage.read_record(uri, PromotionDecision)
            reason = f"Already the champion. {decision.reason}"
            return decision.model_copy(update={"candidate": candidate, "changed": False, "reason": reason})
        if (current.uri if current else None) != evaluation.champion_uri:
            raise RegistryError(
                "the champion changed since the candidate was evaluated",
                where=candidate.uri,
                detail=f"it was {evaluation.champion_uri}, now it is {current.uri if current else None}",
                remedy="Evaluate again",
            )
        with registry.connected(tracking_uri) as client:
            hold = _hold(client, candidate.name)
        checks = gate.checks(evaluation, serve_check, options) + gate.hold(candidate.name, hold)
        promoted = all(check.passed for check in checks)
        decision = PromotionDecision(
            promoted=promoted,
            changed=promoted,
            reason=gate.reason(checks),
            candidate=candidate,
            previous=current.uri if current else None,
            checks=checks,
            uri=uri,
        )
        # The decision first: a champion without a reason would be worse than a reason without a champion.
        storage.write_record(uri, decision)
        with registry.connected(tracking_uri) as client:
            _record_decision(client, decision, evaluation, str(current.version) if current else "", lock)
        return decision


def _champion_lock(name: str, storage_uri: str) -> AbstractContextManager[Lock]:
    """Return the lock of whatever changes the champion: MLflow cannot move an alias only if it is where it was."""
    return storage_lock.held(storage_lock.location(storage_uri, "champions", name))


def _record_decision(
    client: "MlflowClient", decision: PromotionDecision, evaluation: Evaluation, champion_version: str, lock: Lock
) -> None:
    """Log the evaluation and the decision to MLflow, and move the alias if the candidate is promoted."""
    candidate, version = decision.candidate, str(decision.candidate.version)
    for metric, value in evaluation.candidate.values.items():
        client.log_metric(candidate.run_id, f"test_{metric}", value)
    client.set_model_version_tag(candidate.name, version, "rayworks.decision", decision.reason[:5000])
    if decision.promoted:
        client.set_model_version_tag(candidate.name, version, PREVIOUS, champion_version)
        lock.check()
        client.set_registered_model_alias(candidate.name, CHAMPION, version)


def _hold(client: "MlflowClient", name: str) -> str:
    """Return why no model of this name is promoted; empty if it may be."""
    return client.get_registered_model(name).tags.get(HOLD, "")


def lift_hold(name: str, *, tracking_uri: str, storage_uri: str) -> ModelVersion:
    """Let models be promoted again, and return the champion. Nothing happens if they may be.

    Raises:
        RegistryError: There is no champion.
        StorageError: Another process changes the champion, and does not end.
    """
    with _champion_lock(name, storage_uri) as lock, registry.connected(tracking_uri) as client:
        current = registry.champion(name, tracking_uri=tracking_uri)
        if current is None:
            raise RegistryError("there is no champion", where=name, remedy="Check the name: nothing was promoted yet")
        lock.check()
        if _hold(client, name):
            client.delete_registered_model_tag(name, HOLD)
        return current


def rollback(name: str, *, tracking_uri: str, storage_uri: str) -> ModelVersion:
    """Make the previous champion the champion again, and hold it: nothing is promoted until a person lifts the hold.

    Raises:
        RegistryError: There is no champion, or it replaced none, or one that was deleted.
        StorageError: Another process changes the champion, and does not end.
    """
    with _champion_lock(name, storage_uri) as lock, registry.connected(tracking_uri) as client:
        current = registry.champion(name, tracking_uri=tracking_uri)
        previous = client.get_model_version(name, str(current.version)).tags.get(PREVIOUS) if current else None
        if not current or not previous:
            detail = f"version {current.version} is the first" if current else "nothing was promoted yet"
            raise RegistryError(
                "there is no previous champion", where=name, detail=detail, remedy="Promote another version"
            )
        target = registry.numbered(client, name, previous)
        if target is None:
            raise RegistryError(
                "the previous champion was deleted",
                where=name,
                detail=f"version {current.version} replaced version {previous}",
                remedy="Promote another version",
            )
        lock.check()
        hold = f"version {current.version} was rolled back on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        client.set_registered_model_tag(name, HOLD, hold)  # first: a rollback without a hold might be undone at once
        client.set_registered_model_alias(name, CHAMPION, previous)
        return target
