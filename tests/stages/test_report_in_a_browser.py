"""The report in a browser, opened from a file and without a network."""

from pathlib import Path

import made_up_run
import pytest

from rayworks.reporting import report


@pytest.fixture
def opened(browser, tmp_path: Path):
    """Return a function that opens a report, and returns the page with its errors and requests."""

    def open_(width: int = 1280, **changes: object):
        path = tmp_path / "report.html"
        report.write(str(path), report.html(**made_up_run.run(**changes)))
        page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page, problems

    return open_


def test_the_report_opens_without_a_network_and_without_an_error(opened):
    page, problems = opened()
    assert page.title() == "trips"
    assert page.locator("h1").inner_text() == "Version 2 is the new champion"
    assert problems == []


def test_every_chart_is_drawn(opened):
    page, _ = opened()
    boxes = [chart.bounding_box() for chart in page.locator("svg.chart").all()]
    assert len(boxes) >= 12
    assert all(box["width"] > 200 and box["height"] > 60 for box in boxes)
    marks = page.eval_on_selector_all(
        "svg.chart", "all => all.map(c => c.querySelectorAll('path, rect, circle').length)"
    )
    assert min(marks) > 0


def test_a_category_that_is_a_script_does_not_run(opened):
    page, _ = opened(title=made_up_run.EVIL)
    assert page.locator("script").count() == 0
    assert page.title() == made_up_run.EVIL
    assert page.locator("a[href^='javascript']").count() == 0


@pytest.mark.parametrize("width", [380, 800, 1600])
def test_nothing_is_wider_than_the_screen(opened, width: int):
    page, _ = opened(width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
