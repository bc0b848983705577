"""Models in MLflow's registry: registered once, promoted by an alias that moves, and rolled back by moving it again."""

import os
import subprocess
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayworks import __version__, storage
from rayworks.data import manifest
from rayworks.errors import RegistryError
from rayworks.evaluation import gate
from rayworks.models import tabular
from rayworks.params import PromoteOptions
from rayworks.progress import Progress
from rayworks.records import Dataset, Evaluation, ModelRef, ModelVersion, PromotionDecision, ServeCheck, TuneResult
from rayworks.reuse import Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"
FINGERPRINT, PREVIOUS = "rayworks.fingerprint", "rayworks.previous_champion"


@contextmanager
def _registry(tracking_uri: str) -> "Generator[MlflowClient]":
    """A client of the registry, whose failures are sentences."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    tabular.prepare_mlflow()
    try:
        _make_database(tracking_uri)
        yield MlflowClient(tracking_uri, tracking_uri)
    except (MlflowException, SQLAlchemyError) as error:
        raise RegistryError(
            "the model registry refused",
            where=tracking_uri,
            detail=str(error).splitlines()[0],
            remedy="Check RAYWORKS_MLFLOW_TRACKING_URI, that the server answers, and that its disk has room",
        ) from error


def _make_database(tracking_uri: str) -> None:
    """A SQLite file that is not there yet appears with all its tables: MLflow cannot mend what was made by half."""
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow.store.db import utils as database

    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with storage.explained(str(path), "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        try:
            engine = database.create_sqlalchemy_engine(f"sqlite:///{part}")
            try:
                database._initialize_tables(engine)  # pyright: ignore[reportPrivateUsage] - a store would keep it open
            finally:
                engine.dispose()
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
    run = client.create_run(experiment_id, run_name=key, tags=_tags(model, dataset, key))
    _log_run(client, run.info.run_id, model)
    for trial in tune.trials if tune else ():
        _log_trial(client, run, trial, tune.metric if tune else "")
    with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
        client.log_artifacts(run.info.run_id, str(tabular.fetch(model.uri, Path(folder))), "model")
    client.set_terminated(run.info.run_id)
    if not _is_registered(client, model.name):
        client.create_registered_model(model.name)
    source = f"{run.info.artifact_uri}/model"
    version = client.create_model_version(model.name, source, run.info.run_id, tags={FINGERPRINT: key})
    client.set_registered_model_alias(model.name, CANDIDATE, version.version)
    return _version(version)


def _experiment(client: "MlflowClient", name: str, storage_uri: str) -> str:
    """The experiment of a model's trainings. A database keeps artifacts in the storage, a server where it likes."""
    found = client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
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
        "rayworks.dataset": model.dataset_uri,
        "rayworks.dataset_fingerprint": model.dataset_fingerprint,
        "rayworks.sources": sources[:4000],
        "rayworks.model": model.uri,
        "rayworks.split": dataset.split_by,
    }


def _commit() -> str:
    """The commit of the code that runs, if it runs in a git work tree."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git here: the version says it all
        return "unknown"
    return found.stdout.strip() or "unknown"


def _log_run(client: "MlflowClient", run_id: str, model: ModelRef) -> None:
    from mlflow.entities import Metric, Param

    points = [(f"train_{model.metric}", p.train, p.round) for p in model.curve if p.train is not None]
    points += [(f"validation_{model.metric}", p.validation, p.round) for p in model.curve]
    metrics = [Metric(name, value, 0, step) for name, value, step in points]
    metrics += [Metric("best_round", model.best_round, 0, 0), Metric("seconds", model.seconds, 0, 0)]
    parameters = [
        Param(name, str(value)) for name, value in {**model.hyperparameters, "workers": model.workers}.items()
    ]
    for start in range(0, len(metrics), 1000):  # MLflow takes no more in a request
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


def _version(found: Any, *, created: bool = True) -> ModelVersion:
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        uri=f"models:/{found.name}/{found.version}",
        run_id=found.run_id,
        fingerprint=found.tags.get(FINGERPRINT, ""),
        created=created,
    )


def aliased(name: str, alias: str, *, tracking_uri: str) -> ModelVersion | None:
    """The version that has the alias, if there is one."""
    with _registry(tracking_uri) as client:
        found = [model for model in client.search_registered_models(f"name = '{name}'") if alias in model.aliases]
        return _version(client.get_model_version(name, found[0].aliases[alias]), created=False) if found else None


def champion(name: str, *, tracking_uri: str) -> ModelVersion | None:
    """The version that is in service, if there is one."""
    return aliased(name, CHAMPION, tracking_uri=tracking_uri)


def rival(candidate: ModelVersion, *, tracking_uri: str) -> ModelVersion | None:
    """Whom a candidate is judged against: the champion; if it is the champion itself, the one that it replaced."""
    current = champion(candidate.name, tracking_uri=tracking_uri)
    if current is None or current.version != candidate.version:
        return current
    with _registry(tracking_uri) as client:
        previous = client.get_model_version(candidate.name, str(candidate.version)).tags.get(PREVIOUS)
        return _version(client.get_model_version(candidate.name, previous), created=False) if previous else None


def version_of(uri: str, *, tracking_uri: str) -> ModelVersion:
    """The version that ``models:/name/version`` or ``models:/name@alias`` names.

    Raises:
        RegistryError: There is none.
    """
    name, _, rest = uri.removeprefix("models:/").partition("@" if "@" in uri else "/")
    found = aliased(name, rest, tracking_uri=tracking_uri) if "@" in uri else None
    if "@" not in uri:
        with _registry(tracking_uri) as client:
            found = next((_version(v, created=False) for v in _versions(client, name) if str(v.version) == rest), None)
    if found is None:
        raise RegistryError(
            "no such model version", where=uri, remedy="Name it as models:/name/version or models:/name@alias"
        )
    return found


def promote(
    candidate: ModelVersion,
    evaluation: Evaluation,
    serve_check: ServeCheck | None,
    options: PromoteOptions,
    *,
    tracking_uri: str,
    storage_uri: str,
) -> PromotionDecision:
    """Make the candidate the champion if every condition holds; keep the decision with its numbers either way.

    Raises:
        RegistryError: The registry cannot be reached, or the champion changed since the evaluation.
    """
    uri = storage.join(storage.absolute(storage_uri), "decisions", f"{candidate.name}-v{candidate.version}.json")
    current = champion(candidate.name, tracking_uri=tracking_uri)
    if current and current.version == candidate.version and storage.exists(uri):
        kept = storage.read_record(uri, PromotionDecision)
        return kept.model_copy(update={"changed": False, "reason": f"Already the champion. {kept.reason}"})
    if (current.uri if current else None) != evaluation.champion_uri:
        raise RegistryError(
            "the champion changed since the candidate was evaluated",
            where=candidate.uri,
            detail=f"it was {evaluation.champion_uri}, now it is {current.uri if current else None}",
            remedy="Evaluate again",
        )
    checks = gate.checks(evaluation, serve_check, options)
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
    storage.write_record(
        uri, decision
    )  # first: a champion without a reason would be worse than a reason without a champion
    with _registry(tracking_uri) as client:
        for metric, value in evaluation.candidate.values.items():
            client.log_metric(candidate.run_id, f"test_{metric}", value)
        client.set_model_version_tag(
            candidate.name, str(candidate.version), "rayworks.decision", decision.reason[:5000]
        )
        if promoted:
            previous = str(current.version) if current else ""
            client.set_model_version_tag(candidate.name, str(candidate.version), PREVIOUS, previous)
            client.set_registered_model_alias(candidate.name, CHAMPION, str(candidate.version))
    return decision


def rollback(name: str, *, tracking_uri: str) -> ModelVersion:
    """Make the champion's predecessor the champion again.

    Raises:
        RegistryError: There is no champion, or it has no predecessor.
    """
    current = champion(name, tracking_uri=tracking_uri)
    with _registry(tracking_uri) as client:
        tags = client.get_model_version(name, str(current.version)).tags if current else {}
        if not tags.get(PREVIOUS):
            said = f"version {current.version} is the first" if current else "nothing was promoted yet"
            raise RegistryError(
                "there is no champion to go back to", where=name, detail=said, remedy="Promote another version"
            )
        client.set_registered_model_alias(name, CHAMPION, tags[PREVIOUS])
        return _version(client.get_model_version(name, tags[PREVIOUS]), created=False)
