import json
import re

import made_up_run
import pytest
from made_up_run import EVIL

from rayworks import storage
from rayworks.reporting import charts, figures, report


def test_the_page_shows_the_verdict_candidate_champion_and_baseline():
    page = report.html(**made_up_run.run())
    assert "Version 2 is the new champion" in page
    assert re.findall(r'class="value">([^<]+)<', page) == ["4.50", "5.00", "12.0"]
    assert "the candidate is 10.0% better" in page


def test_the_page_of_a_promotion_has_the_command_that_rolls_it_back():
    assert "uv run flows/rollback.py --name trips" in report.html(**made_up_run.run())


def test_the_page_loads_nothing_from_elsewhere():
    page = report.html(**made_up_run.run())
    assert not re.search(r"<(script|link rel=.stylesheet|iframe|object)|@import|url\(", page)
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) == ["data:,", "http://127.0.0.1:4200"]


def test_text_from_data_is_never_markup():
    for page in (
        report.html(**made_up_run.run()),
        report.html(**made_up_run.run(dataset=made_up_run.dataset("multiclass"))),
    ):
        assert "<script>" not in page
        assert "<img" not in page
        assert "&lt;/script&gt;" in page


@pytest.mark.parametrize("missing", ["tune", "model", "version", "evaluation", "serve_check", "decision"])
def test_a_section_without_its_record_is_left_out(missing: str):
    page = report.html(**made_up_run.run(**{missing: None}))
    sections = {"tune": "tuning", "model": "training", "evaluation": "evaluation", "serve_check": "serving"}
    if missing in sections:
        assert f'id="{sections[missing]}"' not in page
    assert 'id="data"' in page


def test_a_run_that_only_processed_data_has_a_report():
    only_data = dict.fromkeys(("tune", "model", "version", "evaluation", "serve_check", "decision"))
    assert "10,000 rows are ready" in report.html(**made_up_run.run(**only_data))
    assert "10,000 rows are ready" in report.markdown(**made_up_run.run(**only_data))
    assert report.summary(**made_up_run.run(**only_data))[0] == ("rows", "10,234 in, 10,000 kept, 234 rejected")


def test_what_the_data_were_taken_for_is_in_every_output():
    warned = made_up_run.dataset("binary").model_copy(update={"warnings": ("the split by t is uneven",)})
    run = made_up_run.run(dataset=warned)
    lines = report.summary(**run)
    assert ("target", "delay, binary with 2 classes (training rows): no (100), yes (200)") in lines
    assert ("ignored", "id (every value differs)") in lines
    assert ("warning", "the split by t is uneven") in lines
    for text in ("binary with 2 classes", "every value differs", "the split by t is uneven"):
        assert text in report.html(**run)
        assert text in report.markdown(**run)
    assert ("target", "delay, regression: 0 to 4.00, mean 3.50") in report.summary(**made_up_run.run())


def test_a_champion_that_could_not_be_scored_is_in_every_output():
    run = made_up_run.run(evaluation=made_up_run.evaluation(champion=False))
    assert "The champion is gone" in report.html(**run)
    assert "The champion is gone" in report.markdown(**run)
    assert any("The champion is gone" in text for _, text in report.summary(**run))


def test_a_rival_whose_metric_is_zero_is_shown_but_not_compared():
    evaluation = made_up_run.evaluation()
    zero = evaluation.baseline.model_copy(update={"values": {"rmse": 0.0}})
    [*_, baseline] = report.tiles(evaluation.model_copy(update={"baseline": zero}))
    assert baseline == {"name": "baseline", "value": "0", "detail": "cannot be compared"}


def test_the_markdown_has_the_verdict_and_the_metrics_and_no_markup_from_data():
    text = report.markdown(**made_up_run.run())
    assert text.startswith("## ✓ Version 2 is the new champion")
    assert "| RMSE | 4.50 | 5.00 | 12.0 |" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "<http://127.0.0.1:4200>" in text
    assert "<javascript:" not in text


def test_slices_are_sorted_from_the_worst_to_the_best_against_the_champion():
    rows = report.slice_rows(made_up_run.evaluation())
    assert [row["value"] for row in rows] == [EVIL, "Oslo"]
    assert rows[0]["against champion"] == pytest.approx(-0.2)
    json.dumps(rows)


def test_trials_are_sorted_from_best_to_worst_and_failed_ones_are_last_with_their_error():
    rows = report.trial_rows(made_up_run.tune())
    assert [row["trial"] for row in rows] == [1, 0, 2]
    assert str(rows[2]["state"]).startswith("failed: boom")
    json.dumps(rows)


def test_the_deciding_metric_is_first():
    assert [row["metric"] for row in report.metric_rows(made_up_run.evaluation())] == ["RMSE", "MAE", "R²"]


def test_a_gain_is_positive_for_a_better_candidate_whatever_the_direction_of_the_metric():
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
def test_numbers_have_three_significant_digits(value: float | None, text: str):
    assert charts.number(value) == text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3e-5, 2e-5), (5.0, 5.0), (1e6, 9e8), (17.9, 18.1)])
def test_an_axis_has_at_most_six_ticks_whatever_the_values(low: float, high: float):
    ticks = charts.scale([low, high], 0, 100).ticks()
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)


def test_a_chart_leaves_out_values_that_are_not_finite():
    chart = charts.lines({"candidate": [(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)]}, "name", "x", "y")
    assert "nan" not in chart
    assert "nan" not in charts.dumbbells(["a"], {"candidate": [None], "champion": [1.0]}, "name", "x")


def test_the_page_is_stored_at_its_uri(tmp_path):
    report.write(str(tmp_path / "reports" / "r.html"), "<p>é</p>")
    assert storage.read_bytes(str(tmp_path / "reports" / "r.html")).decode() == "<p>é</p>"


def test_tables_have_rounded_numbers():
    [first, *_] = report.readable(report.slice_rows(made_up_run.evaluation()))
    assert (first["candidate"], first["rows"], first["against champion"]) == ("6.00", 300, "-20.0%")
    [first, *_] = report.readable(report.slice_rows(made_up_run.evaluation(champion=False)))
    assert first["champion"] == "—"


@pytest.mark.parametrize(
    ("passes", "says"),
    [
        ({}, "The model is that of round 2."),
        ({"refit_rounds": 3}, "The model is that of 3 rounds on training and validation rows together."),
        (
            {"earlier_best_round": 4, "refit_rounds": 5},
            "On an earlier part of the rows, round 4 was the best. The model is that of 5 rounds on training and "
            "validation rows together, as many per row as in the mean of both.",
        ),
    ],
)
def test_the_learning_curve_says_which_rounds_the_model_has(passes: dict[str, int], says: str):
    figure = figures.of_curve(made_up_run.run()["model"].model_copy(update=passes))
    assert figure
    assert figure.note.endswith(f"more rounds may give a better model. {says}")
