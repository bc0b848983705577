"""Requests of the prediction application, without Ray."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import made_up_run
import pandas as pd
import pytest
from fastapi import HTTPException
from fastapi.responses import JSONResponse

from rayworks.errors import DataError
from rayworks.records import Column
from rayworks.serving import prediction_app
from rayworks.serving.prediction_app import LoadedModel

COLUMNS = (
    Column(name="ride length", kind="numeric", dtype="float"),
    Column(name="start", kind="timestamp", dtype="timestamp"),
)


class Doubled:
    """A model that predicts a multiple of the ride length, and counts its calls."""

    def __init__(self, factor: float = 2.0) -> None:
        dataset = made_up_run.dataset()
        self.feature_set = dataset.feature_set.model_copy(update={"columns": COLUMNS})
        self.target = dataset.target
        self.factor, self.calls = factor, 0

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        self.calls += 1
        if (rows["ride length"] < 0).any():
            raise DataError("a ride length is negative")
        return pd.DataFrame({"prediction": rows["ride length"].astype(float) * self.factor})


def loaded(model: Any) -> LoadedModel:
    return LoadedModel(model, None, "/model")


def respond(model: Any, body: Any) -> dict[str, Any]:
    async def predict(item: Any) -> pd.DataFrame:
        [result] = await prediction_app.predict_batch(model, [item])
        return result

    return asyncio.run(prediction_app.respond(loaded(model), body, predict))


def test_a_response_has_the_model_and_a_prediction_per_row():
    rows = [{"ride length": 3}, {"ride length": None}, {}]
    assert respond(Doubled(), {"rows": rows}) == {
        "model": {"name": None, "version": None},
        "predictions": [6.0, None, None],
    }


def test_an_invalid_value_is_refused_with_its_place_in_the_request():
    with pytest.raises(HTTPException) as refusal:
        respond(Doubled(), {"rows": [{}, {"ride length": "long"}]})
    assert refusal.value.status_code == 422
    assert refusal.value.detail[0]["loc"] == ["body", "rows", 1, "ride length"]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("integer", 99999999999999999999),
        ("integer", -(2**63) - 1),
        ("string", "\ud83d"),
        ("timestamp", "0001-01-01T00:00:00+02:00"),
        ("timestamp", "\ud83d"),
    ],
    ids=["too large", "too small", "half a character", "before the first year", "half a character as a time"],
)
def test_a_value_that_its_column_cannot_hold_is_refused_with_its_place(dtype: str, value: Any):
    model = Doubled()
    columns = (*COLUMNS, Column(name="other", kind="numeric", dtype=dtype))
    model.feature_set = model.feature_set.model_copy(update={"columns": columns})
    with pytest.raises(HTTPException) as refusal:
        respond(model, {"rows": [{"other": value}]})
    assert (refusal.value.status_code, refusal.value.detail[0]["loc"]) == (422, ["body", "rows", 0, "other"])


@pytest.mark.parametrize("body", ["\ud83d", None, [float("nan")], {"\ud83d": 1}, {"rows": [{"\ud83d": 1}]}])
def test_a_request_that_is_no_table_is_refused_with_a_response_that_can_be_encoded(body: Any):
    with pytest.raises(HTTPException) as refusal:
        respond(Doubled(), body)
    assert refusal.value.status_code == 422
    JSONResponse(refusal.value.detail)


def test_rows_that_the_model_refuses_are_refused_with_its_reason():
    with pytest.raises(HTTPException) as refusal:
        respond(Doubled(), {"rows": [{"ride length": -1}]})
    assert (refusal.value.status_code, refusal.value.detail) == (422, "A ride length is negative.")


def test_the_requests_of_a_batch_are_predicted_in_one_call():
    model: Any = Doubled(10.0)
    lengths = [[1.0], [2.0, 3.0], [], [4.0]]
    requests = [pd.DataFrame({"ride length": pd.Series(rows, dtype=float)}) for rows in lengths]
    results = asyncio.run(prediction_app.predict_batch(model, requests))
    assert [result["prediction"].tolist() for result in results] == [[10.0], [20.0, 30.0], [], [40.0]]
    assert model.calls == 1


def test_a_request_with_a_bad_row_does_not_make_others_of_its_batch_fail():
    requests = [pd.DataFrame({"ride length": lengths}) for lengths in ([1.0], [2.0, -1.0], [3.0, 4.0])]
    first, bad, last = asyncio.run(prediction_app.predict_batch(Doubled(), requests))
    assert isinstance(bad, DataError)
    assert [result["prediction"].tolist() for result in (first, last)] == [[2.0], [6.0, 8.0]]


def test_a_request_of_more_rows_than_a_batch_fills_one_batch_alone():
    def size(*rows: int) -> int:
        return prediction_app.batch_size(3, [pd.DataFrame(index=range(count)) for count in rows])

    assert (size(2), size(7), size(1, 2), size(2, 2), size(7, 0)) == (2, 3, 3, 4, 7)


def test_times_are_converted_to_utc_and_every_column_has_its_type():
    request = prediction_app.request_type(COLUMNS)
    body = {"rows": [{"start": "2024-01-01T10:00:00+02:00", "ride length": 1}, {}]}
    frame = prediction_app.raw_frame(request.model_validate(body).rows, COLUMNS)
    assert frame["start"].tolist()[0] == pd.Timestamp(datetime(2024, 1, 1, 8, tzinfo=UTC).replace(tzinfo=None))
    assert frame["ride length"].dtype == "double[pyarrow]"
    assert frame.isna().to_numpy().tolist() == [[False, False], [True, True]]


def test_probabilities_are_named_by_their_labels():
    predictions = pd.DataFrame({"prediction": ["yes"], "probability_no": [0.25], "probability_yes": [float("nan")]})
    assert prediction_app.predictions_as_json(predictions) == {
        "predictions": ["yes"],
        "probabilities": [{"no": 0.25, "yes": None}],
    }
