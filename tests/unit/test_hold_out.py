"""Whether a candidate has learned from the hold-out rows that it is judged on. No Ray, no registry."""

from datetime import datetime
from typing import Any

import made_up_run
import pytest

from rayworks import reuse
from rayworks.data import splitting
from rayworks.data.splitting import Splitter
from rayworks.evaluation import evaluation, gate, registry
from rayworks.params import PromoteOptions
from rayworks.records import Dataset, SourceFile
from rayworks.reporting import report

MARCH, APRIL = datetime(2024, 3, 1), datetime(2024, 4, 1)
OTHER = SourceFile(uri="/lake/others.csv", bytes=1, modified=None)


def split(splitter: Splitter, *sources: SourceFile) -> Dataset:
    described = {"split_by": splitter.describe(), "split_method": splitter.by, "split_column": splitter.column}
    files = {"sources": sources} if sources else {}
    return made_up_run.dataset().model_copy(update={**described, "test_from": splitter.test_from, **files})


def by_time(test_from: datetime, column: str = "day") -> Dataset:
    return split(Splitter("time", column, 0.15, 0.15, 0, datetime(2024, 1, 1), test_from))


def by_key(seed: int = 0, test: float = 0.15, *sources: SourceFile) -> Dataset:
    return split(Splitter("hash", "user", 0.15, test, seed), *sources)


def at_random(seed: int = 0, *sources: SourceFile) -> Dataset:
    return split(Splitter("random", None, 0.15, 0.15, seed), *sources)


@pytest.mark.parametrize(
    ("learned", "judged_on", "unseen"),
    [
        (by_time(MARCH), by_time(APRIL), True),
        (by_time(MARCH), by_time(MARCH), True),
        (by_time(APRIL), by_time(MARCH), False),
        (by_time(MARCH, "paid"), by_time(APRIL), False),
        (at_random(), by_time(APRIL), False),
        (by_key(), by_key(0, 0.15, OTHER), True),
        (by_key(), by_key(seed=1), False),
        (by_key(), by_key(test=0.151), False),
        (by_time(MARCH), by_key(), False),
        (at_random(), at_random(), True),
        (at_random(), at_random(0, OTHER), False),
        (at_random(), at_random(seed=1), False),
    ],
)
def test_hold_out_rows_are_unseen_where_the_splits_exclude_that_a_model_learned_from_them(
    learned: Dataset, judged_on: Dataset, unseen: bool
):
    assert splitting.is_unseen(judged_on, learned) is unseen


def doubt(monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], learned: Dataset | None) -> str:
    """Why a candidate with these tags may have learned from the test rows since March."""
    monkeypatch.setattr(registry, "tags_of", lambda version, tracking_uri: tags)
    monkeypatch.setattr(reuse, "find_record", lambda uri, kind: learned)
    version: Any = made_up_run.run()["version"]
    return evaluation._learned(version, by_time(MARCH), "")


def test_a_candidate_is_judged_on_its_own_dataset_wherever_that_is_stored(monkeypatch: pytest.MonkeyPatch):
    own = {registry.DATASET: "/moved", registry.DATASET_FINGERPRINT: made_up_run.dataset().fingerprint}
    assert doubt(monkeypatch, own, None) == ""


@pytest.mark.parametrize(
    ("tags", "learned", "words"),
    [
        ({registry.DATASET: "/d"}, by_time(APRIL), "/d were split by time (day): train before 2024-01-01 00:00, test "),
        ({registry.DATASET: "/d"}, None, "its dataset /d is no longer stored"),
        ({}, None, "the registry does not say what it learned from"),
    ],
)
def test_a_candidate_that_may_have_learned_from_the_hold_out_rows_is_not_promoted_and_told_why(
    tags: dict[str, str], learned: Dataset | None, words: str, monkeypatch: pytest.MonkeyPatch
):
    judged = made_up_run.evaluation().model_copy(update={"learned": doubt(monkeypatch, tags, learned)})
    failed = [check for check in gate.checks(judged, None, PromoteOptions()) if check.name == "new hold-out rows"]
    assert [check.passed for check in failed] == [False]
    assert words in failed[0].detail
    run = made_up_run.run(evaluation=judged)
    told = "the candidate may have learned from some of the hold-out rows"
    assert told in report.html(**run)
    assert told in report.markdown(**run)
    assert any(told in text for _, text in report.summary(**run))


def test_a_candidate_that_has_certainly_not_learned_from_the_hold_out_rows_has_no_such_check(
    monkeypatch: pytest.MonkeyPatch,
):
    assert doubt(monkeypatch, {registry.DATASET: "/d"}, by_time(datetime(2024, 2, 1))) == ""
    checks = gate.checks(made_up_run.evaluation(), None, PromoteOptions())
    assert "new hold-out rows" not in [check.name for check in checks]
