"""Models in MLflow's registry: registered once, found by version or alias, with what they were made from."""

import os
import subprocess
import tempfile
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayworks import __version__, reuse, storage
from rayworks.data import manifest
from rayworks.errors import RegistryError, first_line
from rayworks.models import _private, stored
from rayworks.progress import Progress
from rayworks.records import Champion, Dataset, ModelRef, ModelVersion, TuneResult
from rayworks.reuse import Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"
FINGERPRINT, PREVIOUS = "rayworks.fingerprint", "rayworks.previous_champion"
DATASET, DATASET_FINGERPRINT, SEARCH = "rayworks.dataset", "rayworks.dataset_fingerprint", "rayworks.search"


@contextmanager
def connected(tracking_uri: str) -> "Generator[MlflowClient]":
    """Yield a client of the registry, whose failures become a ``RegistryError``.

    Raises:
        RegistryError: The registry cannot be reached, or refuses a request.
    """
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
        with connected(tracking_uri) as client:
            versions = (version for version in _versions(client, model.name) if version.tags.get(FINGERPRINT) == key)
            return next((record_of(version, created=False) for version in versions), None)

    def create(_: Progress) -> ModelVersion:
        dataset = manifest.load(model.dataset_uri)
        with connected(tracking_uri) as client:
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
    return record_of(version)


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
        DATASET_FINGERPRINT: model.dataset_fingerprint,
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


def record_of(version: Any, *, created: bool = True) -> ModelVersion:
    """Return the record of MLflow's model version."""
    return ModelVersion(
        name=version.name,
        version=int(version.version),
        uri=f"models:/{version.name}/{version.version}",
        run_id=version.run_id,
        fingerprint=version.tags.get(FINGERPRINT) or version.run_id or version.source,
        created=created,
    )


def numbered(client: "MlflowClient", name: str, number: str) -> ModelVersion | None:
    """Return the version with a number, or None: it may have been deleted."""
    matching = (version for version in _versions(client, name) if str(version.version) == number)
    return next((record_of(version, created=False) for version in matching), None)


def aliased(name: str, alias: str, *, tracking_uri: str) -> ModelVersion | None:
    """Return the version that has the alias, or None."""
    with connected(tracking_uri) as client:
        models = [model for model in client.search_registered_models(f"name = '{name}'") if alias in model.aliases]
        return record_of(client.get_model_version(name, models[0].aliases[alias]), created=False) if models else None


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
    tags = tags_of(current, tracking_uri=tracking_uri)
    dataset = stored_dataset(tags)
    return Champion(version=current, dataset=dataset.ref() if dataset else None, tune_uri=tags.get(SEARCH))


def stored_dataset(tags: Mapping[str, str]) -> Dataset | None:
    """Return the dataset that a run's tags name; None if they name none, or it is no longer stored.

    Raises:
        StorageError: It is stored and cannot be read.
    """
    return reuse.find_record(storage.join(tags[DATASET], manifest.FILE), Dataset) if DATASET in tags else None


def tags_of(version: ModelVersion, *, tracking_uri: str) -> dict[str, str]:
    """Return what the run of a version says of its training; nothing if rayworks did not register it.

    Raises:
        RegistryError: The registry cannot be reached.
    """
    if not version.run_id:
        return {}
    with connected(tracking_uri) as client:
        return client.get_run(version.run_id).data.tags


def dataset_of(version: ModelVersion, *, tracking_uri: str) -> str:
    """Return the URI of the dataset that a version was trained on.

    Raises:
        RegistryError: The version was not registered by rayworks.
    """
    uri = tags_of(version, tracking_uri=tracking_uri).get(DATASET)
    if uri is None:
        remedy = "Train it by the flow train or pipeline"
        raise RegistryError("the version does not say what it was trained on", where=version.uri, remedy=remedy)
    return uri


def rival(candidate: ModelVersion, *, tracking_uri: str) -> ModelVersion | None:
    """Return what a candidate is compared with: the champion or, if it is the champion itself, the one it replaced.

    None: there is none, or it was deleted.
    """
    current = champion(candidate.name, tracking_uri=tracking_uri)
    if current is None or current.version != candidate.version:
        return current
    with connected(tracking_uri) as client:
        previous = client.get_model_version(candidate.name, str(candidate.version)).tags.get(PREVIOUS)
        return numbered(client, candidate.name, previous) if previous else None


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
        with connected(tracking_uri) as client:
            version = numbered(client, name, rest)
    if version is None:
        raise RegistryError(
            "no such model version", where=uri, remedy="Name it as models:/name/version or models:/name@alias"
        )
    return version


def keep_page(
    page: str, file: str, *, experiment: str, version: ModelVersion | None, tracking_uri: str, storage_uri: str
) -> str:
    """Keep an HTML page with the run of a model version, or in a run of its own, and return its route in MLflow's UI.

    The UI shows the page in a frame. Addresses of the file itself make a browser download it.

    Args:
        page: The page.
        file: The name of its file, without characters that a URL escapes.
        experiment: The name of the experiment that gets a run if there is no version.
        version: The model version that the page is about.
        tracking_uri: MLflow's.
        storage_uri: The storage, for an experiment that does not exist yet.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    with connected(tracking_uri) as client:
        if version:
            run = client.get_run(version.run_id)
        else:
            run = client.create_run(_experiment(client, experiment, storage_uri), run_name=Path(file).stem)
            client.set_terminated(run.info.run_id)
        client.log_text(run.info.run_id, page, f"reports/{file}")
        return f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/reports/{file}"
