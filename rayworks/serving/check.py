"""The serving check: serve a candidate before its promotion, and compare its responses with the model itself."""

import json
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rayworks import code_digest, reuse, storage
from rayworks.data import manifest, split_rows
from rayworks.errors import ServingError
from rayworks.params import ServeCheckOptions, ServeOptions
from rayworks.progress import Progress
from rayworks.records import Column, DatasetRef, ModelVersion, ServeCheck
from rayworks.reuse import Stage
from rayworks.serving import application

if TYPE_CHECKING:
    import httpx
    import pandas as pd

ROWS_PER_REQUEST = 10
PARALLEL_REQUESTS = 4  # several at once, so that batching is checked too
RELATIVE_TOLERANCE = 1e-9  # the same code on the same rows, through JSON and back


def stage(
    candidate: ModelVersion, dataset: DatasetRef, *, options: ServeCheckOptions, tracking_uri: str, storage_uri: str
) -> Stage[ServeCheck]:
    """Return the stage that serves a candidate beside the served model, and compares its responses with the model.

    What is wrong with the candidate is a finding, not an error. Only a check that passed is reused.
    """
    code = code_digest.of_library("data", "models", "serving")
    key = reuse.digest(code, candidate.fingerprint, dataset.fingerprint, options.model_dump_json())
    uri = reuse.location(storage_uri, "serve_checks", dataset.name, key) + ".json"

    def find() -> ServeCheck | None:
        stored = reuse.find_record(uri, ServeCheck)
        return stored.model_copy(update={"model_uri": candidate.uri}) if stored and stored.passed else None

    def create(progress: Progress) -> ServeCheck:
        result = _check(candidate.uri, dataset, options, uri, tracking_uri, progress)
        storage.write_record(uri, result)
        progress(1.0, result.findings[0] if result.findings else f"{result.rows} predictions match the model's own")
        return result

    return Stage(find, create)


def _check(
    model_uri: str,
    dataset: DatasetRef,
    options: ServeCheckOptions,
    uri: str,
    tracking_uri: str,
    progress: Progress,
) -> ServeCheck:
    whole = manifest.load(dataset)
    columns = whole.feature_set.columns
    names = [column.name for column in columns]
    rows = split_rows.first_rows(whole, "test", names, options.rows).to_pandas()
    progress(0.1, "starting the candidate's application")
    try:
        with _served(model_uri, tracking_uri) as url, _http_client(options.timeout_seconds) as client:
            progress(0.6, f"requesting predictions for {len(rows)} rows")
            return _compare(client, url, model_uri, rows, columns, uri, tracking_uri)
    except ServingError as error:
        return ServeCheck(
            uri=uri,
            model_uri=model_uri,
            passed=False,
            rows=0,
            largest_difference=0,
            milliseconds_per_request=0,
            findings=(str(error),),
        )


@contextmanager
def _served(model_uri: str, tracking_uri: str) -> Generator[str]:
    """Serve the candidate in an application of its own, and yield its URL."""
    name = f"check-{reuse.digest(model_uri)[:8]}"
    options = ServeOptions(host="127.0.0.1", port=0, cpus_per_replica=0)
    try:
        yield application.run(model_uri, options, tracking_uri=tracking_uri, application=name)
    finally:
        application.stop(name)


def _http_client(timeout_seconds: float) -> "httpx.Client":
    """Return a client for an application on this machine: no proxy of the environment can reach that."""
    import httpx

    return httpx.Client(timeout=timeout_seconds, trust_env=False)


def _compare(
    client: "httpx.Client",
    url: str,
    model_uri: str,
    rows: "pd.DataFrame",
    columns: tuple[Column, ...],
    uri: str,
    tracking_uri: str,
) -> ServeCheck:
    findings: list[str] = []
    for path in ("/healthz", "/model"):
        status, body = _request(client, url + path)
        if status != 200:
            findings.append(f"{path} answered {status}: {str(body)[:200]}")
    records = [_json_record(record) for record in rows.to_dict(orient="records")]
    batches = [records[start : start + ROWS_PER_REQUEST] for start in range(0, len(records), ROWS_PER_REQUEST)]
    started = time.monotonic()
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        responses = list(pool.map(lambda batch: _request(client, f"{url}/predict", {"rows": batch}), batches))
    milliseconds = (time.monotonic() - started) * 1000 / len(batches)
    findings += [f"/predict answered {status}: {str(body)[:300]}" for status, body in responses if status != 200]
    largest = 0.0
    if not findings:
        served = [prediction for _, body in responses for prediction in body["predictions"]]
        largest = _largest_difference(served, _model_predictions(model_uri, rows, tracking_uri))
        if largest > RELATIVE_TOLERANCE:
            findings.append(f"served predictions differ from the model's own by up to {largest:.3g}")
    findings += _unrefused_values(client, url, records[0], columns)
    return ServeCheck(
        uri=uri,
        model_uri=model_uri,
        passed=not findings,
        rows=len(records),
        largest_difference=largest,
        milliseconds_per_request=milliseconds,
        findings=tuple(findings),
    )


def _unrefused_values(
    client: "httpx.Client", url: str, record: dict[str, Any], columns: tuple[Column, ...]
) -> list[str]:
    """Return a finding for each bad row that the application does not refuse by the name of the field.

    One row has a value of a wrong type, another an unknown field.
    """
    bad_values: dict[str, Any] = {columns[0].name: {"not": "a value"}, "no such column": 1}
    findings: list[str] = []
    for name, value in bad_values.items():
        status, body = _request(client, f"{url}/predict", {"rows": [{**record, name: value}]})
        if status != 422 or name not in json.dumps(body, ensure_ascii=False):
            findings.append(f"a row with a bad value in {name!r} got status {status}, not a 422 that names the field")
    return findings


def _model_predictions(model_uri: str, rows: "pd.DataFrame", tracking_uri: str) -> list[Any]:
    """Return the predictions of ``mlflow.pyfunc``: the way in which every other program uses the model."""
    import tempfile
    from pathlib import Path

    import mlflow.pyfunc

    from rayworks.models import stored

    with tempfile.TemporaryDirectory(prefix="rayworks-") as folder:
        local = stored.fetch(model_uri, Path(folder), tracking_uri=tracking_uri)
        return mlflow.pyfunc.load_model(str(local)).predict(rows)["prediction"].tolist()


def _largest_difference(served: list[Any], expected: list[Any]) -> float:
    """Return the largest relative difference of two lists of numbers; for labels, 1 if any differs."""
    if len(served) != len(expected):
        return float("inf")
    pairs = zip(served, expected, strict=True)
    if expected and isinstance(expected[0], float):
        return max(abs(left - right) / max(1.0, abs(right)) for left, right in pairs)
    return float(any(left != right for left, right in pairs))


def _json_record(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row as JSON: missing values as null, times as text."""
    import pandas as pd

    record: dict[str, Any] = {}
    for name, value in row.items():
        missing = pd.isna(value)
        record[name] = None if missing else value.isoformat() if hasattr(value, "isoformat") else value
    return record


def _request(client: "httpx.Client", url: str, body: Any = None) -> tuple[int, Any]:
    """Send a GET, or a POST with a body, and return status and JSON of the response (text where it is not JSON).

    Raises:
        ServingError: There is no response.
    """
    import httpx

    content = None if body is None else json.dumps(body).encode()
    try:
        response = client.request(
            "GET" if content is None else "POST", url, content=content, headers={"Content-Type": "application/json"}
        )
    except httpx.HTTPError as error:
        remedy = "See the logs of its replica and of Serve's proxy in the Ray dashboard"
        detail = str(error) or type(error).__name__
        raise ServingError("the application does not answer", where=url, detail=detail, remedy=remedy) from error
    try:
        return response.status_code, response.json()
    except ValueError:
        return response.status_code, response.text
