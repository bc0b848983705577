import json
import re

import made_up_run
import pytest
from made_up_run import EVIL

from rayworks import storage
from rayworks.reporting import charts, report


def test_the_page_says_the_verdict_and_shows_candidate_champion_and_baseline():
    page = report.html(**made_up_run.run())
    assert "Version 2 is the new champion" in page
    assert re.findall(r'class="value">([^<]+)<', page) == ["4.50", "5.00", "12.0"]
    assert "the candidate is 10.0% better" in page


def test_the_page_of_a_promotion_says_how_to_go_back():
    assert "uv run flows/rollback.py --name trips" in report.html(**made_up_run.run())


def test_the_page_asks_no_other_place_for_anything():
    page = report.html(**made_up_run.run())
    assert not re.search(r"<(script|link rel=.stylesheet|iframe|object)|@import|url\(", page)
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) == ["data:,", "http://127.0.0.1:4200"]


def test_texts_from_data_never_become_markup():
    for page in (
        report.html(**made_up_run.run()),
        report.html(**made_up_run.run(dataset=made_up_run.dataset("multiclass"))),
    ):
        assert "<script>" not in page
        assert "<img" not in page
        assert "&lt;/script&gt;" in page


@pytest.mark.parametrize("absent", ["tune", "model", "version", "evaluation", "serve_check", "decision"])
def test_a_record_that_the_run_did_not_make_leaves_its_section_out(absent: str):
    page = report.html(**made_up_run.run(**{absent: None}))
    sections = {"tune": "tuning", "model": "training", "evaluation": "evaluation", "serve_check": "serving"}
    if absent in sections:
        assert f'id="{sections[absent]}"' not in page
    assert 'id="data"' in page


def test_a_run_that_only_processed_data_has_a_report():
    nothing = dict.fromkeys(("tune", "model", "version", "evaluation", "serve_check", "decision"))
    assert "10,000 rows are ready" in report.html(**made_up_run.run(**nothing))
    assert "10,000 rows are ready" in report.markdown(**made_up_run.run(**nothing))
    assert report.summary(**made_up_run.run(**nothing))[0] == ("rows", "10,234 in, 10,000 kept, 234 set aside")


def test_a_champion_that_could_not_be_scored_is_told_of_everywhere():
    run = made_up_run.run(evaluation=made_up_run.evaluation(champion=False))
    assert "The champion is gone" in report.html(**run)
    assert "The champion is gone" in report.markdown(**run)
    assert any("The champion is gone" in text for _, text in report.summary(**run))


def test_markdown_has_the_verdict_the_numbers_and_no_markup_from_data():
    text = report.markdown(**made_up_run.run())
    assert text.startswith("## ✓ Version 2 is the new champion")
    assert "| RMSE | 4.50 | 5.00 | 12.0 |" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "<http://127.0.0.1:4200>" in text
    assert "<javascript:" not in text


def test_slices_where_the_candidate_lost_most_come_first():
    rows = report.slice_rows(made_up_run.evaluation())
    assert [row["value"] for row in rows] == [EVIL, "Oslo"]
    assert rows[0]["against champion"] == pytest.approx(-0.2)
    json.dumps(rows)


def test_trials_come_best_first_and_failed_ones_last_with_their_error():
    rows = report.trial_rows(made_up_run.tune())
    assert [row["trial"] for row in rows] == [1, 0, 2]
    assert str(rows[2]["state"]).startswith("failed: boom")
    json.dumps(rows)


def test_the_deciding_metric_comes_first():
    assert [row["metric"] for row in report.metric_rows(made_up_run.evaluation())] == ["RMSE", "MAE", "R²"]


def test_a_gain_is_positive_when_better_whichever_way_the_metric_goes():
    assert report.shown_gain(4.0, 5.0, "rmse") == pytest.approx(0.2)
    assert report.shown_gain(0.9, 0.8, "accuracy") == pytest.approx(0.125)
    assert report.shown_gain(0.1, 0.0, "rmse") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567.0, "1,234,567"),
        (14.0, "14.0"),
        (0.01234, "0.0123"),
        (3, "3"),
        (0.0, "0"),
        (99.99, "100"),
        (None, "—"),
        (float("nan"), "—"),
        (1e-7, "1.0e-07"),
        (-5.678, "-5.68"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, text: str):
    assert charts.number(value) == text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3e-5, 2e-5), (5.0, 5.0), (1e6, 9e8), (17.9, 18.1)])
def test_an_axis_has_a_few_round_ticks_whatever_the_values(low: float, high: float):
    ticks = charts.scale([low, high], 0, 100).ticks()
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)


def test_values_that_are_no_numbers_break_no_chart():
    chart = charts.lines({"candidate": [(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)]}, "name", "x", "y")
    assert "nan" not in chart
    assert "nan" not in charts.dumbbells(["a"], {"candidate": [None], "champion": [1.0]}, "name", "x")


def test_the_page_is_kept_where_asked(tmp_path):
    report.write(str(tmp_path / "reports" / "r.html"), "<p>é</p>")
    assert storage.read_bytes(str(tmp_path / "reports" / "r.html")).decode() == "<p>é</p>"


def test_tables_show_numbers_that_people_can_read():
    found = made_up_run.evaluation()
    [first, *_] = report.readable(report.slice_rows(found))
    assert (first["candidate"], first["rows"], first["against champion"]) == ("6.00", 300, "-20.0%")
    [first, *_] = report.readable(report.slice_rows(made_up_run.evaluation(champion=False)))
    assert first["champion"] == "—"
