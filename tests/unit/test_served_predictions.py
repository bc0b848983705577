"""Whatever rows a service accepts, its predictions are those of the model. No Ray."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.data.reading import MISSING_TEXT
from rayworks.data.validation import LARGEST, POLARS_TYPES
from rayworks.models.tabular import TabularModel
from rayworks.records import Column, Feature, FeatureSet, Target
from rayworks.serving import prediction_app

COLUMNS = (
    Column(name="whole", kind="numeric", dtype="integer"),
    Column(name="length", kind="numeric", dtype="float"),
    Column(name="city", kind="categorical", dtype="string"),
    Column(name="rain", kind="boolean", dtype="boolean"),
    Column(name="start", kind="timestamp", dtype="timestamp"),
)
FEATURES = (
    *(Feature(name=column.name, kind="numeric", source=column.name) for column in (*COLUMNS[:2], COLUMNS[3])),
    Feature(name="city", kind="categorical", source="city", categories=("Oslo", "1", "")),
    Feature(name="start_hour", kind="numeric", source="start", part="hour"),
)
values = {
    "whole": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
    "length": st.floats(-LARGEST, LARGEST) | st.integers(-(2**63), 2**63 - 1),
    "city": st.sampled_from(["Oslo", "1", "", "NA", "true"]) | st.text(st.characters(exclude_categories=["Cs"])),
    "rain": st.booleans(),
    "start": st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.none() | st.just(UTC)),
}
rows_of_a_request = st.lists(st.fixed_dictionaries({}, optional={k: v | st.none() for k, v in values.items()}))


class EveryBit:
    """A model whose prediction shows the value of every feature."""

    def predict(self, features: pd.DataFrame) -> np.ndarray:
        numbers = features.apply(lambda column: column.cat.codes if column.dtype == "category" else column)
        return np.array([hash(row) for row in numbers.fillna(-0.5).itertuples(index=False)], dtype=float)


MODEL = TabularModel(FeatureSet(columns=COLUMNS, features=FEATURES), Target(name="y", problem="regression"), EveryBit())


def as_processed(value: Any) -> Any:
    """A value as a dataset has it."""
    if isinstance(value, str):
        return None if value.strip() in MISSING_TEXT else value.strip()
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def served(requests: list[list[dict[str, Any]]]) -> list[list[float]]:
    """The predictions of requests that one batch predicts."""
    loaded = prediction_app.LoadedModel(MODEL, None, "/model")
    bodies = [json.loads(json.dumps({"rows": rows}, default=datetime.isoformat)) for rows in requests]
    validated: list[Any] = [loaded.request_type.model_validate(body) for body in bodies]
    frames = [prediction_app.raw_frame(request.rows, COLUMNS) for request in validated]
    results = asyncio.run(prediction_app.predict_batch(MODEL, frames))
    return [result["prediction"].tolist() for result in results]


@given(requests=st.lists(rows_of_a_request, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_a_service_predicts_each_accepted_row_as_the_model_does(requests: list[list[dict[str, Any]]]):
    def alone(row: dict[str, Any]) -> float:
        typed = {column.name: [as_processed(row.get(column.name))] for column in COLUMNS}
        types = {column.name: POLARS_TYPES[column.dtype] for column in COLUMNS}
        return float(MODEL.score(pl.DataFrame(typed, types, strict=False))[0])

    assert served(requests) == [[alone(row) for row in rows] for rows in requests]
