"""Processing on a real Ray: counts add up, reasons are stored, and no partial dataset is left."""

from pathlib import Path

import polars as pl
import pytest

from rayworks import storage
from rayworks.data import manifest, processing
from rayworks.errors import DataError, ParameterError, StorageError
from rayworks.params import ColumnDeclaration, ProcessOptions, SplitOptions
from rayworks.records import SPLITS

pytestmark = pytest.mark.usefixtures("ray_session")


def passengers(folder: Path, rows: int = 600) -> str:
    """A small table with strings, missing values and a class to predict; two of its rows cannot be used."""
    lines = ["id,survived,class,name,sex,age,fare"]
    for i in range(rows):
        age = "" if i % 7 == 0 else str(i % 70 + 0.5)
        lines.append(
            f'{i},{"yes" if i * 7919 % 13 < 5 else "no"},{i % 3 + 1},"Person, {i}",{"mf"[i % 2]},{age},{i * 31 % 97}'
        )
    lines += ["600,yes,1,A,m,unknown,5", "601,,1,B,m,30,5"]
    (folder / "passengers.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "passengers.csv")


def rows_of(dataset, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(uri) for uri, _ in storage.list_files(dataset.split(name).uri)])


def test_data_needs_only_a_uri_and_a_target(tmp_path: Path, storage_uri: str):
    dataset = manifest.load(
        processing.stage(passengers(tmp_path), "survived", ProcessOptions(), storage_uri=storage_uri).run()
    )
    assert (dataset.target.problem, dataset.target.classes) == ("binary", ("no", "yes"))
    assert {f.name: f.kind for f in dataset.feature_set.features} == {
        "class": "numeric",
        "sex": "categorical",
        "age": "numeric",
        "fare": "numeric",
    }
    assert (dataset.rows_in, dataset.rows_kept, dataset.rows_rejected) == (602, 600, 2)
    assert dataset.reasons == {"column age: not a number": 1, "the target survived is missing": 1}
    assert sum(dataset.split(name).rows for name in SPLITS) == 600
    assert all(len(rows_of(dataset, name)) == dataset.split(name).rows for name in SPLITS)


def test_rejected_rows_are_stored_with_file_row_reason_and_content(tmp_path: Path, storage_uri: str):
    uri = passengers(tmp_path)
    dataset = manifest.load(processing.stage(uri, "survived", ProcessOptions(), storage_uri=storage_uri).run())
    rejected = pl.read_parquet(f"{dataset.rejected_uri}/*.parquet").sort("row")
    assert rejected["file"].to_list() == [uri, uri]
    assert rejected["row"].to_list() == [601, 602]
    assert rejected["reason"].to_list() == ["column age: 'unknown' is not a number", "the target survived is missing"]
    assert '"name":"A"' in rejected["record"][0]


def test_the_flights_of_two_months_add_up(storage_uri: str):
    months = "example://flights/2013-0[1-2]*"
    dataset = manifest.load(processing.stage(months, "arr_delay", ProcessOptions(), storage_uri=storage_uri).run())
    assert dataset.target.problem == "regression"
    assert dataset.rows_in == 51_889
    assert dataset.rows_kept + dataset.rows_rejected == dataset.rows_in
    assert set(dataset.reasons) == {"the target arr_delay is missing"}
    train, test = rows_of(dataset, "train"), rows_of(dataset, "test")
    assert train["time_hour"].max() < test["time_hour"].min()


def test_statistics_are_those_of_the_rows(tmp_path: Path, storage_uri: str):
    dataset = manifest.load(
        processing.stage(passengers(tmp_path), "survived", ProcessOptions(), storage_uri=storage_uri).run()
    )
    train = rows_of(dataset, "train")
    statistics = {s.name: s for s in dataset.split("train").statistics}
    assert statistics["fare"].mean == pytest.approx(train["fare"].mean())
    assert statistics["fare"].deviation == pytest.approx(train["fare"].std(ddof=0))
    assert statistics["age"].missing == train["age"].null_count()
    assert sum(statistics["fare"].counts) == len(train)
    assert dict(zip(statistics["sex"].values, statistics["sex"].counts, strict=True)) == dict(
        train["sex"].value_counts().iter_rows()
    )
    assert dataset.class_counts == dict(train["survived"].value_counts().iter_rows())


def test_files_with_different_columns_and_types_become_one_dataset(tmp_path: Path, storage_uri: str):
    pl.DataFrame({"x": range(300), "extra": ["a", "b", "c"] * 100, "y": [i * 0.37 for i in range(300)]}).write_parquet(
        tmp_path / "1.parquet"
    )
    pl.DataFrame({"x": ["7", "8", "bad"] * 100, "y": [i * 0.11 for i in range(300)]}).write_parquet(
        tmp_path / "2.parquet"
    )
    options = ProcessOptions(columns={"x": ColumnDeclaration(kind="numeric")})
    dataset = manifest.load(processing.stage(str(tmp_path / "*.parquet"), "y", options, storage_uri=storage_uri).run())
    assert dataset.reasons == {"column x: not a number": 100}
    assert dataset.rows_kept == 500


def test_columns_without_plain_values_are_ignored_with_a_note(tmp_path: Path, storage_uri: str):
    pl.DataFrame({"x": range(100), "nested": [[1, 2]] * 100, "y": [i % 2 for i in range(100)]}).write_parquet(
        tmp_path / "a.parquet"
    )
    dataset = manifest.load(
        processing.stage(str(tmp_path / "a.parquet"), "y", ProcessOptions(), storage_uri=storage_uri).run()
    )
    assert [c.name for c in dataset.feature_set.ignored] == ["nested"]
    assert dataset.target.classes == (0, 1)


def test_the_kind_of_problem_follows_from_all_rows(tmp_path: Path, storage_uri: str):
    amounts = [f"{i}.25" if 301 <= i <= 305 else "0.00" for i in range(600)]  # the sample has each sixth
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i % 17},{amount}\n" for i, amount in enumerate(amounts)))
    options = ProcessOptions(sample_rows=100)
    dataset = manifest.load(processing.stage(str(tmp_path / "a.csv"), "y", options, storage_uri=storage_uri).run())
    assert (dataset.target.problem, dataset.rows_kept) == ("regression", 600)


def test_the_same_data_with_the_same_options_is_processed_once(tmp_path: Path, storage_uri: str):
    uri = passengers(tmp_path)
    first = processing.stage(uri, "survived", ProcessOptions(), storage_uri=storage_uri).run()
    written = (Path(first.uri) / "dataset.json").stat().st_mtime_ns
    assert processing.stage(uri, "survived", ProcessOptions(), storage_uri=storage_uri).run() == first
    assert (Path(first.uri) / "dataset.json").stat().st_mtime_ns == written
    other = processing.stage(uri, "survived", ProcessOptions(split=SplitOptions(seed=1)), storage_uri=storage_uri).run()
    assert other.uri != first.uri
    with open(uri, "a") as file:
        file.write("z,no,1,C,f,20,5\n")
    assert (
        processing.stage(uri, "survived", ProcessOptions(), storage_uri=storage_uri).run().rows_in == first.rows_in + 1
    )


def test_several_uris_are_one_dataset_and_a_file_that_two_of_them_name_counts_once(tmp_path: Path, storage_uri: str):
    for name, start in (("a", 0), ("b", 100), ("c", 200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.csv").write_text("n,y\n" + "".join(f"{start + i},{i}\n" for i in range(100)))
    uris = [str(tmp_path / "a" / "data.csv"), str(tmp_path / "b"), str(tmp_path / "[ab]" / "*.csv")]
    dataset = processing.stage(uris, "y", ProcessOptions(), storage_uri=storage_uri).run()
    assert (dataset.rows_in, dataset.name) == (200, "data")
    with pytest.raises(ParameterError, match="No data are named"):
        processing.stage([], "y", ProcessOptions(), storage_uri=storage_uri)


def test_a_file_without_a_usable_row_is_named_with_the_reason(tmp_path: Path, storage_uri: str):
    rows = "".join(f"{i},{i % 7}\n" for i in range(300))
    (tmp_path / "good.csv").write_text(f"n,y\n{rows}")
    (tmp_path / "other.csv").write_text(f"n,z\n{rows}")
    dataset = manifest.load(processing.stage(str(tmp_path), "y", ProcessOptions(), storage_uri=storage_uri).run())
    assert dataset.unusable == {str(tmp_path / "other.csv"): "the target y is missing"}
    assert f"no row of {tmp_path / 'other.csv'} can be used: the target y is missing" in dataset.warnings


BAD_DATA = {
    "a missing file": ("missing.csv", None, "y", {}, StorageError, "does not exist"),
    "an unknown column": ("a.csv", "x,y\n1,2\n", "z", {}, DataError, "'z' is not in the data.*Name one of its columns"),
    "a target without values": (
        "a.csv",
        "x,y\n" + "1,\n" * 9,
        "y",
        {},
        DataError,
        "none of the 9 rows.*target y is missing",
    ),
    "a constant target": (
        "a.csv",
        "x,y\n" + "".join(f"{i},5\n" for i in range(99)),
        "y",
        {},
        DataError,
        "only one value",
    ),
    "a constant amount": (
        "a.csv",
        "x,y\n" + "".join(f"{i},5\n" for i in range(99)),
        "y",
        {"problem": "regression"},
        DataError,
        "only one value",
    ),
    "no rows": ("a.csv", "x,y\n", "y", {}, DataError, "no rows"),
    "one row": ("a.csv", "x,y\n1,2\n", "y", {}, DataError, "no column is left|no row is left|only one value"),
    "only invalid rows": (
        "a.csv",
        "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(50)),
        "y",
        {"columns": {"x": ColumnDeclaration(minimum=1000)}},
        DataError,
        "none of the 50 rows.*less than 1000",
    ),
    "a function that does not exist": (
        "a.csv",
        "x,y\n1,2\n2,3\n",
        "y",
        {"feature_function": "nowhere:f"},
        ParameterError,
        "could not be imported: nowhere",
    ),
    "a function that fails": (
        "a.csv",
        "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(50)),
        "y",
        {"feature_function": "tests.unit.feature_functions:that_fails"},
        ParameterError,
        "ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_unusable_data_is_refused_in_a_sentence_and_leaves_no_dataset(case: str, tmp_path: Path, storage_uri: str):
    name, content, target, options, error, words = BAD_DATA[case]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=f"(?is){words}"):
        processing.stage(str(tmp_path / name), target, ProcessOptions(**options), storage_uri=storage_uri).run()
    datasets = Path(storage_uri) / "datasets"
    assert not datasets.exists() or list(datasets.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_named_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"(?i)cannot write.*file"):
        processing.stage(
            passengers(tmp_path), "survived", ProcessOptions(), storage_uri=str(tmp_path / "file" / "below")
        ).run()
