"""The prediction application: FastAPI on Ray Serve, for any registered model.

``POST /predict`` takes rows whose types are those of the model's input columns, ``GET /model`` describes the model, and
``GET /healthz`` reports that the application runs. Concurrent requests are predicted in one batch.
"""
# FastAPI reads annotations at run time, so this module has no `from __future__ import annotations`.

import asyncio
import functools
import itertools
import json
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictStr, create_model

from rayworks.data import json_lines
from rayworks.errors import DataError, ParameterError, RayworksError
from rayworks.models import stored
from rayworks.models.tabular import TabularModel
from rayworks.params import ServeOptions
from rayworks.records import Column, ModelVersion

if TYPE_CHECKING:
    import pandas as pd

MAX_REQUEST_ROWS = 10_000  # more rows belong in a batch job
MAX_ONGOING_REQUESTS = 200
SURGE_PERCENT = 25
"""How many replicas of a new model start before one of the present model stops, in percent, rounded up to a replica.
Kubernetes' default for the Pods of a Deployment. Serve's own is none: with one replica, requests waited for its start.
"""


def _naive(time: datetime) -> datetime:
    """Return a time without its zone, in UTC, as processed data has it.

    Raises:
        ValueError: It is before the year 1 or after the year 9999 in UTC.
    """
    try:
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except OverflowError as error:
        raise ValueError("there is no such time in UTC") from error


def _unicode(text: str) -> str:
    r"""Return a text that can be encoded: JSON may hold half of a character, such as ``"\ud83d"``.

    Raises:
        ValueError: It cannot.
    """
    text.encode()
    return text


TYPES: dict[str, Any] = {
    "integer": Annotated[int, Field(ge=-(2**63), lt=2**63)],  # as processed data has them
    "float": FiniteFloat,
    "string": Annotated[StrictStr, AfterValidator(_unicode)],
    "boolean": StrictBool,
    "timestamp": Annotated[datetime, AfterValidator(_naive)],
}


class LoadedModel:
    """A model in memory, with the type of its requests and its registered version, if it has one."""

    def __init__(self, model: TabularModel, version: ModelVersion | None, uri: str) -> None:
        self.model, self.version, self.uri = model, version, uri
        self.columns = model.feature_set.columns
        self.request_type = request_type(self.columns)

    def name_and_version(self) -> dict[str, Any]:
        """Return what identifies the model in every response."""
        version = self.version
        return {"name": version.name if version else None, "version": version.version if version else None}

    def card(self) -> dict[str, Any]:
        """Return the response of ``/model``."""
        return {
            **self.name_and_version(),
            "uri": self.uri,
            "target": self.model.target.name,
            "problem": self.model.target.problem,
            "classes": list(self.model.target.classes),
            "inputs": [{"name": column.name, "type": column.dtype} for column in self.columns],
            "features": [{"name": feature.name, "kind": feature.kind} for feature in self.model.feature_set.features],
        }


def load(model_uri: str, tracking_uri: str) -> LoadedModel:
    """Load the model at ``model_uri``. An alias is resolved to its current version."""
    from rayworks.evaluation import registry

    version = registry.version_of(model_uri, tracking_uri=tracking_uri) if model_uri.startswith("models:/") else None
    uri = version.uri if version else model_uri
    return LoadedModel(stored.load(uri, tracking_uri=tracking_uri), version, uri)


def request_type(columns: tuple[Column, ...]) -> type[BaseModel]:
    """Return the type of a request: rows with one field per raw column, by its name. Each may be null or absent."""
    fields: dict[str, Any] = {
        f"column_{index}": (TYPES[column.dtype] | None, Field(default=None, alias=column.name))
        for index, column in enumerate(columns)
    }
    strict = ConfigDict(extra="forbid")
    row: Any = create_model("Row", __config__=strict, **fields)
    rows: Any = (list[row], Field(max_length=MAX_REQUEST_ROWS))
    return create_model("Request", __config__=strict, rows=rows)


def raw_frame(rows: list[Any], columns: tuple[Column, ...]) -> "pd.DataFrame":
    """Return validated rows as a frame of raw columns, each of its declared type.

    The types are Arrow's: pandas' own have no whole numbers beside missing values, and floats cannot hold large ones.
    """
    import polars as pl

    from rayworks.data.validation import POLARS_TYPES

    records = [row.model_dump(by_alias=True) for row in rows]
    data = {column.name: [record[column.name] for record in records] for column in columns}
    types = {column.name: POLARS_TYPES[column.dtype] for column in columns}
    return pl.DataFrame(data, types, strict=False).to_pandas(use_pyarrow_extension_array=True)


def predictions_as_json(predictions: "pd.DataFrame") -> dict[str, list[Any]]:
    """Return predictions, and the probabilities of a classification, as JSON has them: NaN and infinity are null."""
    values = [_json_value(value) for value in predictions["prediction"].tolist()]
    names = [name for name in predictions.columns if name != "prediction"]
    if not names:
        return {"predictions": values}
    labels = [name.removeprefix("probability_") for name in names]
    rows = predictions[names].to_numpy().tolist()
    probabilities = [dict(zip(labels, map(_json_value, row), strict=True)) for row in rows]
    return {"predictions": values, "probabilities": probabilities}


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def respond(
    loaded: LoadedModel, body: Any, predict: "Callable[[pd.DataFrame], Awaitable[pd.DataFrame | RayworksError]]"
) -> dict[str, Any]:
    """Return the response to a request of ``/predict``.

    Args:
        loaded: The model.
        body: The request, not validated yet.
        predict: Predicts the rows of this request, together with others. Returns the error of this request.

    Raises:
        HTTPException: Status 422: a value has the wrong type, or the feature function refuses a row.
    """
    from fastapi import HTTPException
    from pydantic import ValidationError

    try:
        rows = cast(Any, loaded.request_type.model_validate(body)).rows
    except ValidationError as error:
        details = [
            {"loc": ["body", *finding["loc"]], "msg": finding["msg"], "type": finding["type"]}
            for finding in error.errors()
        ]
        raise HTTPException(422, detail=details) from error
    try:
        predictions = await predict(raw_frame(rows, loaded.columns))
        if isinstance(predictions, RayworksError):
            raise predictions
    except (DataError, ParameterError) as error:
        raise HTTPException(422, detail=str(error)) from error
    return {"model": loaded.name_and_version(), **predictions_as_json(predictions)}


async def predict_batch(model: TabularModel, requests: "list[pd.DataFrame]") -> "list[pd.DataFrame | RayworksError]":
    """Return the predictions of each request, of which the model predicts all rows in one call, or its error.

    If that call fails, each request is predicted alone: the rows of one are no reason to refuse another. Errors are
    returned, since Serve would raise one for all requests of a batch.
    """
    import pandas as pd

    try:
        predictions = await asyncio.to_thread(model.predict, pd.concat(requests, ignore_index=True))
    except RayworksError as error:
        if len(requests) == 1:
            return [error]
        return [result for request in requests for result in await predict_batch(model, [request])]
    ends = list(itertools.accumulate(len(request) for request in requests))
    return [predictions.iloc[end - len(request) : end] for request, end in zip(requests, ends, strict=True)]


def batch_size(max_rows: int, requests: "list[pd.DataFrame]") -> int:
    """Return the size of a batch in rows.

    A request of more than ``max_rows`` rows counts as ``max_rows`` when it is alone: Serve refuses an item that is
    larger than a batch (``_BatchQueue.wait_for_batch`` in Ray 2.60).
    """
    rows = sum(len(request) for request in requests)
    return rows if len(requests) > 1 else min(rows, max_rows)


def _route_class() -> Any:
    """Return a class of routes that refuse a request in which a key occurs twice, with status 422."""
    from fastapi import Request
    from fastapi.routing import APIRoute

    class StrictRequest(Request):
        async def json(self) -> Any:
            try:
                return json_lines.loads(await self.body())
            except json_lines.RepeatedKeyError as error:
                raise json.JSONDecodeError(str(error), "", 0) from error  # which FastAPI explains

    class StrictRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def handle_strictly(request: Request) -> Any:
                return await handle(StrictRequest(request.scope, request.receive))

            return handle_strictly

    return StrictRoute


def build(model_uri: str, options: ServeOptions, *, tracking_uri: str) -> Any:
    """Return the Serve application of a model.

    Each model gets replicas of its own, which import the code that is there when they start.
    """
    from fastapi import Body, FastAPI
    from ray import serve

    api = FastAPI(title="rayworks", description="Predictions of a rayworks model.")
    api.router.route_class = _route_class()

    @serve.deployment(
        name="model",
        num_replicas=options.replicas,
        max_surge_percent=SURGE_PERCENT,
        ray_actor_options={"num_cpus": options.cpus_per_replica},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
    )
    @serve.ingress(api)  # pyright: ignore[reportUntypedClassDecorator] - Ray has no type for it
    class PredictionApp:
        def __init__(self) -> None:
            self.loaded = load(model_uri, tracking_uri)

        @api.post("/predict")
        async def predict(self, body: Any = Body(examples=[{"rows": [{}]}])) -> dict[str, Any]:
            return await respond(self.loaded, body, self.predict_together)

        @serve.batch(
            max_batch_size=options.max_batch_rows,
            batch_wait_timeout_s=options.batch_wait_ms / 1000,
            batch_size_fn=functools.partial(batch_size, options.max_batch_rows),
        )
        async def predict_together(self, requests: list[Any]) -> list[Any]:
            return await predict_batch(self.loaded.model, requests)

        @api.get("/model")
        async def model(self) -> dict[str, Any]:
            return self.loaded.card()

        @api.get("/healthz")
        async def healthz(self) -> dict[str, str]:
            return {"status": "ok"}

    return cast(Any, PredictionApp).bind()
