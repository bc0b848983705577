"""The registry on a real MLflow with SQLite: registration, promotion, rollback."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from rayworks import storage
from rayworks.data import manifest
from rayworks.errors import DataError, RegistryError
from rayworks.evaluation import evaluation, promotion, registry
from rayworks.models import stored
from rayworks.params import EvaluateOptions, PromoteOptions
from rayworks.records import Evaluation, Interval, ModelVersion, PromotionDecision
from tests import made_up_run

OPTIONS = PromoteOptions()


def registered(rides, tracking_uri: str, key: str = "") -> ModelVersion:
    model = rides.model
    if key:  # the same model under another fingerprint, as if it had been trained in another way
        uri = f"{model.uri}-{key}"
        if not Path(uri).exists():
            Path(uri).symlink_to(model.uri)
        model = model.model_copy(update={"uri": uri})
    return registry.registration(
        model, tracking_uri=tracking_uri, storage_uri=f"{tracking_uri.removeprefix('sqlite:///')}-files"
    ).run()


def judged(rides, version: ModelVersion, tracking_uri: str, tmp_path: Path, *, better: float = 0.0) -> Evaluation:
    """A real evaluation; ``better`` lowers the candidate's metric as if it were that much better on all rows."""
    champion = registry.champion(version.name, tracking_uri=tracking_uri)
    result = evaluation.stage(
        version,
        rides.dataset,
        champion=champion,
        options=EvaluateOptions(),
        storage_uri=str(tmp_path),
        tracking_uri=tracking_uri,
    ).run()
    values = {name: value * (1 - better) for name, value in result.candidate.values.items()}
    interval = Interval(low=better, high=better, confidence=0.95) if better else result.interval
    candidate = result.candidate.model_copy(update={"values": values})
    return result.model_copy(update={"candidate": candidate, "interval": interval})


def promoted(version: ModelVersion, judgement: Evaluation, tracking_uri: str, tmp_path: Path) -> PromotionDecision:
    return promotion.promote(version, judgement, None, OPTIONS, tracking_uri=tracking_uri, storage_uri=str(tmp_path))


def test_the_same_model_is_registered_once_and_is_the_candidate(rides, tracking_uri: str):
    first, again = registered(rides, tracking_uri), registered(rides, tracking_uri)
    assert (first.version, first.created) == (1, True)
    assert (again.version, again.created) == (1, False)
    assert registry.version_of("models:/rides@candidate", tracking_uri=tracking_uri).version == 1
    assert registry.champion("rides", tracking_uri=tracking_uri) is None


def test_a_registered_model_has_its_provenance(rides, tracking_uri: str):
    from mlflow import MlflowClient

    version = registered(rides, tracking_uri)
    client = MlflowClient(tracking_uri, tracking_uri)
    run = client.get_run(version.run_id)
    assert run.data.tags["rayworks.dataset"] == rides.dataset.uri
    assert "rides.parquet" in run.data.tags["rayworks.sources"]
    assert run.data.metrics["validation_rmse"] == pytest.approx(rides.model.curve[-1].validation)
    assert len(client.get_metric_history(version.run_id, "validation_rmse")) == len(rides.model.curve)


def test_the_first_model_is_promoted_over_the_baseline_and_only_once(rides, tracking_uri: str, tmp_path: Path):
    version = registered(rides, tracking_uri)
    judgement = judged(rides, version, tracking_uri, tmp_path)
    decision = promoted(version, judgement, tracking_uri, tmp_path)
    assert (decision.promoted, decision.changed) == (True, True)
    assert "better than the baseline's" in decision.reason
    assert storage.read_record(decision.uri, PromotionDecision) == decision
    again = promoted(version, judgement, tracking_uri, tmp_path)
    assert (again.promoted, again.changed) == (True, False)
    assert registry.champion("rides", tracking_uri=tracking_uri).version == 1


def test_a_candidate_that_is_no_better_is_refused_and_the_decision_is_stored(rides, tracking_uri: str, tmp_path: Path):
    first = registered(rides, tracking_uri)
    promoted(first, judged(rides, first, tracking_uri, tmp_path), tracking_uri, tmp_path)
    second = registered(rides, tracking_uri, "second")
    decision = promoted(second, judged(rides, second, tracking_uri, tmp_path), tracking_uri, tmp_path)
    assert decision.promoted is False
    assert registry.champion("rides", tracking_uri=tracking_uri).version == 1
    assert storage.read_record(decision.uri, PromotionDecision).reason.startswith("Not promoted")


def test_a_rollback_moves_the_alias_and_needs_a_previous_champion(rides, tracking_uri: str, tmp_path: Path):
    first = registered(rides, tracking_uri)
    promoted(first, judged(rides, first, tracking_uri, tmp_path), tracking_uri, tmp_path)
    second = registered(rides, tracking_uri, "third")
    promoted(second, judged(rides, second, tracking_uri, tmp_path, better=0.2), tracking_uri, tmp_path)
    assert registry.champion("rides", tracking_uri=tracking_uri).version == 2
    assert registry.rival(second, tracking_uri=tracking_uri).version == 1
    uris = {"tracking_uri": tracking_uri, "storage_uri": str(tmp_path)}
    assert promotion.rollback("rides", **uris).version == 1
    assert registry.champion("rides", tracking_uri=tracking_uri).version == 1
    with pytest.raises(RegistryError, match="version 1 is the first"):
        promotion.rollback("rides", **uris)


def test_a_rollback_to_a_deleted_version_is_refused_and_holds_nothing(tracking_uri: str, tmp_path: Path):
    with registry.connected(tracking_uri) as client:
        client.create_registered_model("rides")
        run = client.create_run("0").info
        for tags in ({}, {registry.PREVIOUS: "1"}):
            client.create_model_version("rides", f"{run.artifact_uri}/model", run.run_id, tags=tags)
        client.set_registered_model_alias("rides", registry.CHAMPION, "2")
        client.delete_model_version("rides", "1")
    words = r"^The previous champion was deleted: rides \(version 2 replaced version 1\)\. Promote another version\.$"
    with pytest.raises(RegistryError, match=words):
        promotion.rollback("rides", tracking_uri=tracking_uri, storage_uri=str(tmp_path))
    with registry.connected(tracking_uri) as client:
        assert promotion._hold(client, "rides") == ""
    champion = registry.version_of("models:/rides@champion", tracking_uri=tracking_uri)
    assert champion.version == 2
    assert registry.rival(champion, tracking_uri=tracking_uri) is None


def test_after_a_rollback_nothing_is_promoted_until_a_person_lifts_the_hold(rides, tracking_uri: str, tmp_path: Path):
    uris = {"tracking_uri": tracking_uri, "storage_uri": str(tmp_path)}
    with pytest.raises(RegistryError, match="There is no champion"):
        promotion.lift_hold("rides", **uris)
    for key, better in (("fifth", 0.0), ("sixth", 0.2)):
        version = registered(rides, tracking_uri, key)
        promoted(version, judged(rides, version, tracking_uri, tmp_path, better=better), tracking_uri, tmp_path)
    promotion.rollback("rides", **uris)
    third = registered(rides, tracking_uri, "seventh")
    judgement = judged(rides, third, tracking_uri, tmp_path, better=0.2)
    refused = promoted(third, judgement, tracking_uri, tmp_path)
    assert not refused.promoted
    assert "not on hold failed, version 2 was rolled back on" in refused.reason
    assert "`uv run flows/rollback.py --name rides --lift` lifts the hold" in refused.reason
    assert registry.champion("rides", tracking_uri=tracking_uri).version == 1
    assert promotion.lift_hold("rides", **uris).version == promotion.lift_hold("rides", **uris).version == 1
    assert promoted(third, judgement, tracking_uri, tmp_path).promoted


def test_the_champion_names_the_dataset_and_the_search_that_it_was_made_from(rides, tracking_uri: str, tmp_path: Path):
    assert registry.origin("rides", tracking_uri=tracking_uri) is None
    uris = {"tracking_uri": tracking_uri, "storage_uri": str(tmp_path)}
    version = registry.registration(rides.model, tune=made_up_run.tune(), **uris).run()
    promoted(version, judged(rides, version, tracking_uri, tmp_path), tracking_uri, tmp_path)
    champion = registry.origin("rides", tracking_uri=tracking_uri)
    assert champion.dataset == rides.dataset
    assert champion.tune_uri == made_up_run.tune().uri


def test_a_candidate_is_not_promoted_over_a_champion_it_was_not_compared_with(rides, tracking_uri: str, tmp_path: Path):
    first, second = registered(rides, tracking_uri), registered(rides, tracking_uri, "fourth")
    judgement = judged(rides, second, tracking_uri, tmp_path)
    promoted(first, judged(rides, first, tracking_uri, tmp_path), tracking_uri, tmp_path)
    with pytest.raises(RegistryError, match="champion changed"):
        promoted(second, judgement, tracking_uri, tmp_path)


def test_of_two_candidates_that_were_compared_with_the_same_champion_one_is_promoted(
    rides, tracking_uri: str, tmp_path: Path
):
    candidates = [registered(rides, tracking_uri, key) for key in ("fifth", "sixth")]
    judgements = [judged(rides, candidate, tracking_uri, tmp_path) for candidate in candidates]

    def promote(index: int) -> PromotionDecision | RegistryError:
        try:
            return promoted(candidates[index], judgements[index], tracking_uri, tmp_path)
        except RegistryError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(promote, (0, 1)))
    [decision] = [result for result in results if isinstance(result, PromotionDecision)]
    [error] = [result for result in results if isinstance(result, RegistryError)]
    assert decision.changed
    assert "champion changed" in str(error)
    assert registry.champion("rides", tracking_uri=tracking_uri).version == decision.candidate.version


def test_another_registry_on_the_same_storage_decides_about_its_own_models(rides, tracking_uri: str, tmp_path: Path):
    first = registered(rides, tracking_uri)
    promoted(first, judged(rides, first, tracking_uri, tmp_path), tracking_uri, tmp_path)
    other = f"sqlite:///{tmp_path}/other.db"
    second = registered(rides, other, "seventh")
    assert second.uri == first.uri
    assert second.fingerprint != first.fingerprint
    judgement = judged(rides, second, other, tmp_path)
    decision = promoted(second, judgement, other, tmp_path)
    assert decision.changed
    assert decision.candidate == second
    assert storage.read_record(decision.uri, PromotionDecision).candidate == second
    assert promoted(first, judgement, tracking_uri, tmp_path).candidate == first, "its own decision is still there"


def test_a_version_that_does_not_exist_is_refused_with_its_name(tracking_uri: str, tmp_path: Path):
    with pytest.raises(RegistryError, match="models:/nothing/7"):
        registry.version_of("models:/nothing/7", tracking_uri=tracking_uri)
    with pytest.raises(RegistryError, match="nothing was promoted yet"):
        promotion.rollback("nothing", tracking_uri=tracking_uri, storage_uri=str(tmp_path))


def test_an_unreachable_registry_is_reported_within_seconds():
    started = time.monotonic()
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9"):
        registry.champion("rides", tracking_uri="http://127.0.0.1:9")
    assert time.monotonic() - started < 30


def test_a_model_predicts_raw_rows_as_mlflow_does(rides):
    import mlflow.pyfunc

    example = stored.example_rows(manifest.load(rides.dataset))
    predictions = stored.load(rides.model.uri).predict(example)
    by_mlflow = mlflow.pyfunc.load_model(rides.model.uri).predict(example)
    assert predictions["prediction"].tolist() == by_mlflow["prediction"].tolist()
    assert mlflow.pyfunc.load_model(rides.model.uri).metadata.signature is not None


def test_mlflow_predicts_rows_as_pandas_reads_them_from_a_file(rides, tmp_path: Path):
    import mlflow.pyfunc

    rows = stored.example_rows(manifest.load(rides.dataset)).astype(object)
    rows.loc[0, ["passengers", "city", "night", "start"]] = None
    expected = stored.load(rides.model.uri).predict(rows)["prediction"].tolist()
    rows.to_csv(tmp_path / "rows.csv", index=False)
    read = pd.read_csv(tmp_path / "rows.csv")
    assert [read[name].dtype.kind for name in ("passengers", "night")] == ["f", "O"]
    assert mlflow.pyfunc.load_model(rides.model.uri).predict(read)["prediction"].tolist() == expected
    whole = read.assign(**{"ride length": 4, "passengers": 2})
    assert len(mlflow.pyfunc.load_model(rides.model.uri).predict(whole)) == len(read)


def test_rows_may_miss_columns_and_have_others_but_no_values_of_wrong_types(rides):
    model = stored.load(rides.model.uri)
    example = stored.example_rows(manifest.load(rides.dataset))
    assert len(model.predict(example.drop(columns=["city"]).assign(color="red"))) == len(example)
    assert list(model.predict(example.set_index(example.index + 100)).index) == [100, 101, 102, 103, 104]
    with pytest.raises(DataError, match="'long' is not a number"):
        model.predict(example.assign(**{"ride length": "long"}))


def test_a_model_that_cannot_be_loaded_is_an_error_with_its_uri(tmp_path: Path):
    with pytest.raises(RegistryError, match=str(tmp_path)):
        stored.load(str(tmp_path))
