"""Models in MLflow's registry: registered once, promoted by moving an alias, and rolled back by moving it again."""

import os
import subprocess
import tempfile
import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayworks import __version__, reuse, storage, storage_lock
from rayworks.data import manifest
from rayworks.errors import RegistryError, first_line
from rayworks.evaluation import gate
from rayworks.models import _private, stored
from rayworks.params import PromoteOptions
from rayworks.progress import Progress
from rayworks.records import (
    Champion,
    Dataset,
    Evaluation,
    ModelRef,
    ModelVersion,
    PromotionDecision,
    ServeCheck,
    TuneResult,
)
from rayworks.reuse import Stage
from rayworks.storage_lock import Lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"
FINGERPRINT, PREVIOUS = "rayworks.fingerprint", "rayworks.previous_champion"
DATASET, SEARCH, HOLD = "rayworks.dataset", "rayworks.search", "rayworks.on_hold"


@contextmanager
def _registry(tracking_uri: str) -> "Generator[MlflowClient]":
    """Yield a client of the registry, whose failures become a ``RegistryError``."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    _private.silence_mlflow()
    try:
        _make_database(tracking_uri)
        yield MlflowClient(tracking_uri, tracking_uri)
    except (MlflowException, SQLAlchemyError) as error:
        raise RegistryError(
            "the model registry failed",
            where=tracking_uri,
            detail=first_line(error),
            remedy="Check RAYWORKS_MLFLOW_TRACKING_URI, that the server responds, and that its disk is not full",
        ) from error


def _make_database(tracking_uri: str) -> None:
    """Create a missing SQLite file together with all its tables: MLflow cannot repair a database with half of them."""
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///") or path.exists():
        return
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with storage.explained(str(path), "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        try:
            _private.create_tables(f"sqlite:///{part}")
            with suppress(FileExistsError):  # another process was faster
                os.link(part, path)
        finally:
            part.unlink()


def registration(
    model: ModelRef, *, tracking_uri: str, storage_uri: str, tune: TuneResult | None = None
) -> Stage[ModelVersion]:
    """Return the stage that registers ``model`` as a version with its provenance, under the alias ``candidate``.

    A model is registered once: the version of the same fingerprint is reused.

    Both its functions raise:
        RegistryError: The registry cannot be reached.
    """
    key = model.uri.rpartition("/")[2]

    def find() -> ModelVersion | None:
        with _registry(tracking_uri) as client:
            versions = (version for version in _versions(client, model.name) if version.tags.get(FINGERPRINT) == key)
            return next((_version(version, created=False) for version in versions), None)

    def create(_: Progress) -> ModelVersion:
        dataset = manifest.load(model.dataset_uri)
        with _registry(tracking_uri) as client:
            return _register(client, model, dataset, tune, key, storage_uri)

    return Stage(find, create)


def _register(
    client: "MlflowClient", model: ModelRef, dataset: Dataset, tune: TuneResult | None, key: str, storage_uri: str
) -> ModelVersion:
    experiment_id = _experiment(client, model.name, storage_uri)
    tags = _tags(model, dataset, key) | ({SEARCH: tune.uri} if tune else {})
    run = client.create_run(experiment_id, run_name=key, tags=tags)
    _log_run(client, run.info.run_id, model)
    if tune and tune.dataset_uri == dataset.uri:  # a search on other data is logged with the model it was made for
        for trial in tune.trials:
            _log_trial(client, run, trial, tune.metric)
    with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
        client.log_artifacts(run.info.run_id, str(stored.fetch(model.uri, Path(folder))), "model")
    client.set_terminated(run.info.run_id)
    if not _is_registered(client, model.name):
        client.create_registered_model(model.name)
    source = f"{run.info.artifact_uri}/model"
    version = client.create_model_version(model.name, source, run.info.run_id, tags={FINGERPRINT: key})
    client.set_registered_model_alias(model.name, CANDIDATE, version.version)
    return _version(version)


def _experiment(client: "MlflowClient", name: str, storage_uri: str) -> str:
    """Return the ID of the model's experiment. Its artifacts go to the storage, or to those of an MLflow server."""
    experiment = client.get_experiment_by_name(name)
    if experiment:
        return experiment.experiment_id
    server = client.tracking_uri.startswith("http")
    return client.create_experiment(
        name, None if server else storage.join(storage.absolute(storage_uri), "mlflow", name)
    )


def _tags(model: ModelRef, dataset: Dataset, key: str) -> dict[str, str]:
    sources = ", ".join(source.uri for source in dataset.sources)
    return {
        FINGERPRINT: key,
        "rayworks.version": __version__,
        "rayworks.loop": model.loop,
        "rayworks.code": _commit(),
        DATASET: model.dataset_uri,
        "rayworks.dataset_fingerprint": model.dataset_fingerprint,
        "rayworks.sources": sources[:4000],
        "rayworks.model": model.uri,
        "rayworks.split": dataset.split_by,
    }


def _commit() -> str:
    """Return the commit of the running code, if it runs in a git work tree."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):  # git is not installed
        return "unknown"
    return git.stdout.strip() or "unknown"


def _log_run(client: "MlflowClient", run_id: str, model: ModelRef) -> None:
    from mlflow.entities import Metric, Param

    points = [(f"train_{model.metric}", p.train, p.round) for p in model.curve if p.train is not None]
    points += [(f"validation_{model.metric}", p.validation, p.round) for p in model.curve]
    metrics = [Metric(name, value, 0, step) for name, value, step in points]
    metrics += [Metric("best_round", model.best_round, 0, 0), Metric("seconds", model.seconds, 0, 0)]
    rounds = {"earlier_best_round": model.earlier_best_round, "refit_rounds": model.refit_rounds}
    metrics += [Metric(name, value, 0, 0) for name, value in rounds.items() if value is not None]
    parameters = [
        Param(name, str(value)) for name, value in {**model.hyperparameters, "workers": model.workers}.items()
    ]
    for start in range(0, len(metrics), 1000):  # MLflow's limit per request
        client.log_batch(run_id, metrics=metrics[start : start + 1000])
    client.log_batch(run_id, params=parameters)


def _log_trial(client: "MlflowClient", parent: Any, trial: Any, metric: str) -> None:
    from mlflow.entities import Metric, Param

    tags = {"mlflow.parentRunId": parent.info.run_id, "rayworks.state": trial.state}
    run = client.create_run(parent.info.experiment_id, run_name=f"trial-{trial.number}", tags=tags)
    metrics = [Metric(f"validation_{metric}", trial.metric, 0, trial.rounds)] if trial.metric is not None else []
    params = [Param(name, str(value)) for name, value in trial.hyperparameters.items()]
    client.log_batch(run.info.run_id, metrics=metrics, params=params)
    client.set_terminated(run.info.run_id, "FAILED" if trial.state == "failed" else "FINISHED")


def _is_registered(client: "MlflowClient", name: str) -> bool:
    return bool(client.search_registered_models(f"name = '{name}'"))


def _versions(client: "MlflowClient", name: str) -> list[Any]:
    return list(client.search_model_versions(f"name = '{name}'"))


def _version(version: Any, *, created: bool = True) -> ModelVersion:
    """Return the record of MLflow's model version."""
    return ModelVersion(
        name=version.name,
        version=int(version.version),
        uri=f"models:/{version.name}/{version.version}",
        run_id=version.run_id,
        fingerprint=version.tags.get(FINGERPRINT) or version.run_id or version.source,
        created=created,
    )


def aliased(name: str, alias: str, *, tracking_uri: str) -> ModelVersion | None:
    """Return the version that has the alias, or None."""
    with _registry(tracking_uri) as client:
        models = [model for model in client.search_registered_models(f"name = '{name}'") if alias in model.aliases]
        return _version(client.get_model_version(name, models[0].aliases[alias]), created=False) if models else None


def champion(name: str, *, tracking_uri: str) -> ModelVersion | None:
    """Return the champion, or None."""
    return aliased(name, CHAMPION, tracking_uri=tracking_uri)


def origin(name: str, *, tracking_uri: str) -> Champion | None:
    """Return the champion, with the dataset that it learned from and the search of its hyperparameters, or None.

    Raises:
        RegistryError: The registry cannot be reached.
        StorageError: The dataset is stored and cannot be read.
    """
    current = champion(name, tracking_uri=tracking_uri)
    if current is None:
        return None
    with _registry(tracking_uri) as client:
        tags = client.get_run(current.run_id).data.tags if current.run_id else {}
    dataset = reuse.find_record(storage.join(tags[DATASET], manifest.FILE), Dataset) if DATASET in tags else None
    return Champion(version=current, dataset=dataset.ref() if dataset else None, tune_uri=tags.get(SEARCH))


def dataset_of(version: ModelVersion, *, tracking_uri: str) -> str:
    """Return the URI of the dataset that a version was trained on.

    Raises:
        RegistryError: The version was not registered by rayworks.
    """
    with _registry(tracking_uri) as client:
        uri = client.get_run(version.run_id).data.tags.get(DATASET) if version.run_id else None
    if uri is None:
        remedy = "Train it by the flow train or pipeline"
        raise RegistryError("the version does not say what it was trained on", where=version.uri, remedy=remedy)
    return uri


def rival(candidate: ModelVersion, *, tracking_uri: str) -> ModelVersion | None:
    """Return what a candidate is compared with: the champion or, if it is the champion itself, the one it replaced."""
    current = champion(candidate.name, tracking_uri=tracking_uri)
    if current is None or current.version != candidate.version:
        return current
    with _registry(tracking_uri) as client:
        previous = client.get_model_version(candidate.name, str(candidate.version)).tags.get(PREVIOUS)
        return _version(client.get_model_version(candidate.name, previous), created=False) if previous else None


def version_of(uri: str, *, tracking_uri: str) -> ModelVersion:
    """Return the version at ``models:/name/version`` or ``models:/name@alias``.

    Raises:
        RegistryError: It does not exist.
    """
    by_alias = "@" in uri
    name, _, rest = uri.removeprefix("models:/").partition("@" if by_alias else "/")
    if by_alias:
        version = aliased(name, rest, tracking_uri=tracking_uri)
    else:
        with _registry(tracking_uri) as client:
            matching = (version for version in _versions(client, name) if str(version.version) == rest)
            version = next((_version(version, created=False) for version in matching), None)
    if version is None:
        raise RegistryError(
            "no such model version", where=uri, remedy="Name it as models:/name/version or models:/name@alias"
        )
    return version


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
        current = champion(candidate.name, tracking_uri=tracking_uri)
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
        hold = _hold(candidate.name, tracking_uri)
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
        with _registry(tracking_uri) as client:
            _record_decision(client, decision, evaluation, str(current.version) if current else "", lock)
        return decision


def _champion_lock(name: str, storage_uri: str) -> AbstractContextManager[Lock]:
    """Return the lock of whatever changes the champion: MLflow cannot move an alias only if it is where it was."""
    return storage_lock.held(storage.join(storage.absolute(storage_uri), "locks", "champions", name))


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


def _hold(name: str, tracking_uri: str) -> str:
    """Return why no model of this name is promoted; empty if it may be."""
    with _registry(tracking_uri) as client:
        return client.get_registered_model(name).tags.get(HOLD, "")


def lift_hold(name: str, *, tracking_uri: str, storage_uri: str) -> ModelVersion:
    """Let models be promoted again, and return the champion. Nothing happens if they may be.

    Raises:
        RegistryError: There is no champion.
        StorageError: Another process changes the champion, and does not end.
    """
    with _champion_lock(name, storage_uri) as lock, _registry(tracking_uri) as client:
        current = champion(name, tracking_uri=tracking_uri)
        if current is None:
            raise RegistryError("there is no champion", where=name, remedy="Check the name: nothing was promoted yet")
        lock.check()
        if _hold(name, tracking_uri):
            client.delete_registered_model_tag(name, HOLD)
        return current


def rollback(name: str, *, tracking_uri: str, storage_uri: str) -> ModelVersion:
    """Make the previous champion the champion again, and hold it: nothing is promoted until a person lifts the hold.

    Raises:
        RegistryError: There is no champion, or it replaced none.
        StorageError: Another process changes the champion, and does not end.
    """
    with _champion_lock(name, storage_uri) as lock, _registry(tracking_uri) as client:
        current = champion(name, tracking_uri=tracking_uri)
        previous = client.get_model_version(name, str(current.version)).tags.get(PREVIOUS) if current else None
        if not current or not previous:
            detail = f"version {current.version} is the first" if current else "nothing was promoted yet"
            raise RegistryError(
                "there is no previous champion", where=name, detail=detail, remedy="Promote another version"
            )
        lock.check()
        hold = f"version {current.version} was rolled back on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        client.set_registered_model_tag(name, HOLD, hold)  # first: a rollback without a hold might be undone at once
        client.set_registered_model_alias(name, CHAMPION, previous)
        return _version(client.get_model_version(name, previous), created=False)
