"""Models behind HTTP on the Ray at hand: for users, and for a trial before a promotion."""

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rayworks import reuse, storage
from rayworks.data import manifest, split_rows
from rayworks.errors import RayworksError, RegistryError, ServingError
from rayworks.free_port import free_port
from rayworks.params import ServeCheckOptions, ServeOptions
from rayworks.progress import Progress, silent
from rayworks.ray_error import cause
from rayworks.records import Column, DatasetRef, ServeCheck
from rayworks.serving import prediction_app

if TYPE_CHECKING:
    import pandas as pd

APPLICATION = "rayworks"
HEAD: dict[str, float] = {"node:__internal_head__": 0.001}
"""What a Ray task asks for to run where Serve listens: on the head's node, which alone has this resource."""
ALIAS_SECONDS = 5  # how soon a promotion or a rollback is noticed
STOP_SECONDS = 30
ROWS_PER_REQUEST = 10
RELATIVE_TOLERANCE = 1e-9  # the same code on the same rows, through JSON and back


def run(model_uri: str, options: ServeOptions, *, tracking_uri: str, application: str = APPLICATION) -> str:
    """Serve a model on the Ray at hand; an application of this name gets the new model without dropping a request.

    Returns:
        The URL that answers.

    Raises:
        ServingError: The port is taken, or the application does not start.
    """
    from ray import serve

    address = _http_address(options.host, options.port)
    built = prediction_app.build(
        model_uri,
        tracking_uri=tracking_uri,
        replicas=options.replicas,
        cpus_per_replica=options.cpus_per_replica,
        max_batch_rows=options.max_batch_rows,
        batch_wait_ms=options.batch_wait_ms,
    )
    prefix = "/" if application == APPLICATION else f"/{application}"
    try:
        serve.run(built, name=application, route_prefix=prefix)
    except Exception as error:
        known = cause(error)
        if isinstance(known, RayworksError):
            raise known from error
        raise ServingError(
            "the model's application did not start",
            where=model_uri,
            detail=str(known).splitlines()[0],
            remedy="See the replica's log in the Ray dashboard",
        ) from error
    return f"http://{address[0]}:{address[1]}{prefix.rstrip('/')}"


def _http_address(host: str, port: int) -> tuple[str, int]:
    """Where Serve listens on this Ray; it is started if it does not run.

    Raises:
        ServingError: The port is taken by another program.
    """
    from ray import serve
    from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        return str(client.http_config.host), client.http_config.port
    port = port or free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                "the port is taken",
                where=f"{host}:{port}",
                detail=str(error),
                remedy="Choose another port, or 0 for a free one",
            ) from error
    serve.start(http_options={"host": host, "port": port})
    return host, port


def hold(model_uri: str, options: ServeOptions, *, tracking_uri: str, progress: Progress = silent) -> None:
    """Serve until the caller is ended. When an alias names another version, that one takes over.

    Raises:
        ServingError: The application does not start, or stops answering.
    """
    from rayworks.evaluation import registry

    served = registry.version_of(model_uri, tracking_uri=tracking_uri)
    url = run(served.uri, options, tracking_uri=tracking_uri)
    try:
        while True:
            progress(
                1.0, f"{served.name} version {served.version} answers at {url}, interactive documentation at {url}/docs"
            )
            time.sleep(ALIAS_SECONDS)
            try:
                current = registry.version_of(model_uri, tracking_uri=tracking_uri)
            except RegistryError as error:  # an outage of the registry is none of the service
                progress(
                    1.0,
                    f"{served.name} version {served.version} answers at {url}; whether it moved is not known: {error}",
                )
                continue
            if current.version != served.version:
                run(current.uri, options, tracking_uri=tracking_uri)
                served = current
    finally:
        stop()


def stop(application: str = APPLICATION) -> None:
    """End an application; Serve ends with its last one."""
    from ray import serve

    serve.delete(application, _blocking=True)
    if not serve.status().applications:
        _shut_down()


def _shut_down() -> None:
    """As ``serve.shutdown``, but not by a call that fails when the controller ends: Ray would tell the terminal of it."""
    import ray
    from ray.exceptions import RayActorError
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from ray.serve.context import _get_global_client, _set_global_client  # pyright: ignore[reportPrivateUsage]

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    client.shutdown_cached_handles()
    _set_global_client(None)  # else this process would take the next Serve for this one
    deadline = time.monotonic() + STOP_SECONDS
    try:
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(
            controller.graceful_shutdown.remote(wait=False)
        )  # once: said again at its end, it would end the next Serve
        while time.monotonic() < deadline:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            time.sleep(0.05)
    except (ValueError, RayActorError):  # it is gone
        return
    remedy = "See the log of its controller in the Ray dashboard"
    raise ServingError(f"Ray Serve did not end within {STOP_SECONDS} seconds", remedy=remedy)


def location(model_uri: str, dataset: DatasetRef, options: ServeCheckOptions, *, storage_uri: str) -> str:
    """Where the result of the check is kept, whether it was made or not."""
    key = reuse.digest(model_uri, dataset.fingerprint, options.model_dump_json())
    return storage.join(storage.absolute(storage_uri), "serve_checks", f"{dataset.name}-{key[:12]}.json")


def check(
    model_uri: str,
    dataset: DatasetRef,
    *,
    options: ServeCheckOptions,
    tracking_uri: str,
    storage_uri: str,
    progress: Progress = silent,
) -> ServeCheck:
    """Serve a candidate for a trial, beside what is served already, and see that it answers as the model itself does.

    What is wrong with the candidate is a finding. A check that passed is not made twice.
    """
    uri = location(model_uri, dataset, options, storage_uri=storage_uri)
    if storage.exists(uri) and (kept := storage.read_record(uri, ServeCheck)).passed:
        return kept
    whole = manifest.load(dataset)
    columns = whole.feature_set.columns
    rows = next(split_rows.frames(whole, "test", [column.name for column in columns])).head(options.rows).to_pandas()
    progress(0.1, "starting the candidate's application")
    try:
        with _on_trial(model_uri, tracking_uri) as url:
            progress(0.6, f"asking for {len(rows)} rows")
            found = _check(url, model_uri, rows, columns, options, tracking_uri)
    except ServingError as error:
        found = ServeCheck(
            model_uri=model_uri,
            passed=False,
            rows=0,
            largest_difference=0,
            milliseconds_per_request=0,
            findings=(str(error),),
        )
    storage.write_record(uri, found)
    progress(1.0, f"{found.rows} rows answered as the model does" if found.passed else found.findings[0])
    return found


@contextmanager
def _on_trial(model_uri: str, tracking_uri: str) -> Generator[str]:
    application = f"trial-{reuse.digest(model_uri)[:8]}"
    options = ServeOptions(host="127.0.0.1", port=0, cpus_per_replica=0)  # type: ignore[call-arg]
    try:
        yield run(model_uri, options, tracking_uri=tracking_uri, application=application)
    finally:
        stop(application)


def _check(
    url: str,
    model_uri: str,
    rows: "pd.DataFrame",
    columns: tuple[Column, ...],
    options: ServeCheckOptions,
    tracking_uri: str,
) -> ServeCheck:
    findings: list[str] = []
    for path in ("/healthz", "/model"):
        status, body = _ask(url + path, None, options.timeout_seconds)
        if status != 200:
            findings.append(f"{path} answered {status}: {str(body)[:200]}")
    records = [_record(record) for record in rows.to_dict(orient="records")]
    requests = [records[i : i + ROWS_PER_REQUEST] for i in range(0, len(records), ROWS_PER_REQUEST)]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:  # several at once, so that batching is tried too
        answers = list(pool.map(lambda part: _ask(f"{url}/predict", {"rows": part}, options.timeout_seconds), requests))
    milliseconds = (time.monotonic() - began) * 1000 / len(requests)
    findings += [f"/predict answered {status}: {str(body)[:300]}" for status, body in answers if status != 200]
    largest = 0.0
    if not findings:
        served = [value for _, body in answers for value in body["predictions"]]
        largest = _largest_difference(served, _own_predictions(model_uri, rows, tracking_uri))
        if largest > RELATIVE_TOLERANCE:
            findings.append(f"served predictions differ from the model's own by up to {largest:.3g}")
    findings += _refusals(url, records[0], columns, options)
    return ServeCheck(
        model_uri=model_uri,
        passed=not findings,
        rows=len(records),
        largest_difference=largest,
        milliseconds_per_request=milliseconds,
        findings=tuple(findings),
    )


def _refusals(url: str, record: dict[str, Any], columns: tuple[Column, ...], options: ServeCheckOptions) -> list[str]:
    """A row with a value of a wrong type, and one with an unknown field, must be refused by name."""
    wrong: dict[str, Any] = {columns[0].name: {"not": "a value"}, "no such column": 1}
    findings: list[str] = []
    for name, value in wrong.items():
        status, body = _ask(f"{url}/predict", {"rows": [{**record, name: value}]}, options.timeout_seconds)
        if status != 422 or name not in json.dumps(body, ensure_ascii=False):
            findings.append(f"a row with a bad value in {name!r} was answered {status} instead of 422 that names it")
    return findings


def _own_predictions(model_uri: str, rows: "pd.DataFrame", tracking_uri: str) -> list[Any]:
    """What ``mlflow.pyfunc`` answers: the way anybody else would use the model."""
    import tempfile
    from pathlib import Path

    import mlflow.pyfunc

    from rayworks.models import tabular

    with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
        local = tabular.fetch(model_uri, Path(folder), tracking_uri=tracking_uri)
        return mlflow.pyfunc.load_model(str(local)).predict(rows)["prediction"].tolist()


def _largest_difference(served: list[Any], own: list[Any]) -> float:
    """The largest relative difference of two lists of numbers; for labels, 1 if any differs."""
    if len(served) != len(own):
        return float("inf")
    if own and isinstance(own[0], float):
        return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(served, own, strict=True))
    return float(any(a != b for a, b in zip(served, own, strict=True)))


def _record(record: dict[Any, Any]) -> dict[str, Any]:
    """A row as JSON: missing values are null, times are text."""
    import pandas as pd

    plain: dict[str, Any] = {}
    for name, value in record.items():
        missing = pd.isna(value)
        plain[name] = None if missing else value.isoformat() if hasattr(value, "isoformat") else value
    return plain


def _ask(url: str, body: Any, timeout: float) -> tuple[int, Any]:
    """Status and JSON of an answer.

    Raises:
        ServingError: There was none.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            return error.code, json.loads(text)
        except ValueError:
            return error.code, text
    except (OSError, http.client.HTTPException) as error:
        said = str(getattr(error, "reason", error))
        remedy = "See the logs of its replica and of Serve's proxy in the Ray dashboard"
        raise ServingError("the application does not answer", where=url, detail=said, remedy=remedy) from error
