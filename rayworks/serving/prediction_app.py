"""The HTTP application that answers with a model: FastAPI on Ray Serve.

``POST /predict`` takes rows typed by the model's declaration, ``GET /model`` tells what answers, ``GET /healthz`` that
it does. Requests that arrive together are predicted together.
"""
# FastAPI reads annotations at run time, so this module has no `from __future__ import annotations`.

import asyncio
import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictStr, create_model

from rayworks.errors import DataError, ParameterError
from rayworks.models import stored
from rayworks.models.tabular import TabularModel
from rayworks.records import Column, ModelVersion

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_MOST = 10_000  # of a request: more belong into a batch job
TYPES: dict[str, Any] = {
    "integer": int,
    "float": FiniteFloat,
    "string": StrictStr,
    "boolean": StrictBool,
    "timestamp": datetime,
}


def request_model(columns: tuple[Column, ...]) -> type[BaseModel]:
    """What a request must look like: rows with a field per raw column, by the column's name; any may be null or absent."""
    fields: dict[str, Any] = {
        f"column_{i}": (TYPES[c.dtype] | None, Field(default=None, alias=c.name)) for i, c in enumerate(columns)
    }
    strict = ConfigDict(extra="forbid")
    row: Any = create_model("Row", __config__=strict, **fields)
    rows: Any = (list[row], Field(max_length=ROWS_AT_MOST))
    return create_model("Request", __config__=strict, rows=rows)


def frame_of(rows: list[Any], columns: tuple[Column, ...]) -> "pd.DataFrame":
    """Validated rows as raw columns, each of its type."""
    import polars as pl

    from rayworks.data.validation import POLARS_TYPES

    records = [row.model_dump(by_alias=True) for row in rows]
    data = {c.name: [_plain(record[c.name]) for record in records] for c in columns}
    return pl.DataFrame(data, {c.name: POLARS_TYPES[c.dtype] for c in columns}, strict=False).to_pandas()


def _plain(value: Any) -> Any:
    """Times without a zone, in UTC, as in the data."""
    if isinstance(value, datetime) and value.tzinfo:
        from datetime import UTC

        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def answer_of(predictions: "pd.DataFrame") -> dict[str, list[Any]]:
    """Predictions as JSON can hold them: a number that is none becomes null."""
    values = [_json(value) for value in predictions["prediction"].tolist()]
    names = [name for name in predictions.columns if name != "prediction"]
    if not names:
        return {"predictions": values}
    labels = [name.removeprefix("probability_") for name in names]
    rows = predictions[names].to_numpy().tolist()
    return {"predictions": values, "probabilities": [dict(zip(labels, map(_json, row), strict=True)) for row in rows]}


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Loaded:
    """A model that answers, with what is told of it."""

    def __init__(self, model: TabularModel, version: ModelVersion | None, uri: str) -> None:
        self.model, self.version, self.uri = model, version, uri
        self.columns = model.feature_set.columns
        self.request = request_model(self.columns)

    def name(self) -> dict[str, Any]:
        return {
            "name": self.version.name if self.version else None,
            "version": self.version.version if self.version else None,
        }

    def card(self) -> dict[str, Any]:
        """What ``/model`` says."""
        return {
            **self.name(),
            "uri": self.uri,
            "target": self.model.target.name,
            "problem": self.model.target.problem,
            "classes": list(self.model.target.classes),
            "inputs": [{"name": c.name, "type": c.dtype} for c in self.columns],
            "features": [{"name": f.name, "kind": f.kind} for f in self.model.feature_set.features],
        }


def load(model_uri: str, tracking_uri: str) -> Loaded:
    """The model at ``model_uri``; an alias is resolved to the version that it names now."""
    from rayworks.evaluation import registry

    version = registry.version_of(model_uri, tracking_uri=tracking_uri) if model_uri.startswith("models:/") else None
    uri = version.uri if version else model_uri
    return Loaded(stored.load(uri, tracking_uri=tracking_uri), version, uri)


def build(
    model_uri: str,
    *,
    tracking_uri: str,
    replicas: int,
    cpus_per_replica: float,
    max_batch_rows: int,
    batch_wait_ms: float,
    loader: Callable[[str, str], Loaded] = load,
) -> Any:
    """The Serve application. ``user_config`` may be changed while it runs: the new model is loaded, then takes over."""
    from fastapi import Body, FastAPI, HTTPException
    from pydantic import ValidationError
    from ray import serve

    api = FastAPI(title="rayworks", description="Predictions of a rayworks model.")

    def rows_together(requests: list[Any]) -> int:
        rows = sum(len(frame) for _, frame in requests)
        return rows if len(requests) > 1 else min(rows, max_batch_rows)  # Serve refuses one that is too large alone

    @serve.deployment(
        name="model",
        user_config={"model_uri": model_uri},
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus_per_replica},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        max_ongoing_requests=200,
    )
    @serve.ingress(api)  # pyright: ignore[reportUntypedClassDecorator] - Ray has no type for it
    class PredictionApp:
        def __init__(self) -> None:
            self.loaded: Loaded | None = None

        async def reconfigure(self, user_config: dict[str, str]) -> None:
            self.loaded = await asyncio.to_thread(loader, user_config["model_uri"], tracking_uri)

        @api.post("/predict")
        async def predict(self, body: dict[str, Any] = Body(examples=[{"rows": [{}]}])) -> dict[str, Any]:
            loaded = cast(Loaded, self.loaded)
            try:
                rows = cast(Any, loaded.request.model_validate(body)).rows
            except ValidationError as error:
                details = [{"loc": ["body", *e["loc"]], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
                raise HTTPException(422, detail=details) from error
            try:
                predictions = await self.predict_together((loaded, frame_of(rows, loaded.columns)))
            except (DataError, ParameterError) as error:
                raise HTTPException(422, detail=str(error)) from error
            return {"model": loaded.name(), **answer_of(predictions)}

        @serve.batch(
            max_batch_size=max_batch_rows, batch_wait_timeout_s=batch_wait_ms / 1000, batch_size_fn=rows_together
        )
        async def predict_together(self, requests: list[Any]) -> list[Any]:
            import pandas as pd

            answers: list[Any] = [None] * len(requests)
            for loaded in {id(one): one for one, _ in requests}.values():  # two, while a new model takes over
                mine = [i for i, (one, _) in enumerate(requests) if one is loaded]
                frames = [requests[i][1] for i in mine]
                whole = pd.concat(frames, ignore_index=True)
                predictions = await asyncio.to_thread(loaded.model.predict, whole)
                start = 0
                for i, frame in zip(mine, frames, strict=True):
                    answers[i] = predictions.iloc[start : start + len(frame)]
                    start += len(frame)
            return answers

        @api.get("/model")
        async def model(self) -> dict[str, Any]:
            return cast(Loaded, self.loaded).card()

        @api.get("/healthz")
        async def healthz(self) -> dict[str, str]:
            return {"status": "ok"}

    return cast(Any, PredictionApp).bind()
