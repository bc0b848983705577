"""Charts as SVG: no script, no network, sharp in print, coloured by the style sheet of the page. Pure.

All text from data is escaped by ``markupsafe``: a category named ``</script>`` is drawn as it is written.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 84, 14, 10, 46
ROW = 24  # height of a row of bars or dots
ROW_GAP = 7
LABELS = 176  # width of the labels beside rows
LABEL_CHARACTERS = 19
LOGARITHMIC_RANGE = 8  # the largest value over the smallest one
Series = Mapping[str, Sequence[float]]
Point = tuple[float, float]


def number(value: float | None) -> str:
    """Return a number for readers: three significant digits, thousands separated; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "—"
    if isinstance(value, int) or not value or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"


def short(value: float) -> str:
    """Return a round number as an axis shows it: without trailing zeros."""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 100 else f"{value:.3g}"


def date(seconds: float) -> str:
    """Return the day of a time in seconds since 1970, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return an SVG element. Attributes are escaped, and so are children that are not ``Markup``."""
    rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in attributes.items()}
    pairs = (Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in rounded.items())
    return Markup("<{}{}>{}</{}>").format(Markup(name), Markup("").join(pairs), Markup("").join(children), Markup(name))


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` to positions from ``start`` to ``end``.

    ``log`` makes it logarithmic; ``whole`` means that all values are whole numbers.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        linear: Callable[[float], float] = math.log10 if self.log else float
        span = linear(self.high) - linear(self.low) or 1.0
        return self.start + (linear(value) - linear(self.low)) / span * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return about as many round values between the ends as requested."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            candidates = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            ticks = [tick for tick in candidates if self.low <= tick <= self.high]
            return ticks if len(ticks) <= about + 2 else [tick for tick in ticks if f"{tick:e}".startswith("1")]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / about or 1.0))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= about)
        step = max(step, 1.0) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def scale(values: Sequence[float], start: float, end: float, *, zero: bool = False, log: bool = False) -> Scale:
    """Return a scale that holds all finite ``values`` with a small margin, and zero if ``zero`` is set."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if log:
        return Scale(low, high if high > low else low * 10, start, end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    whole = all(value == int(value) for value in finite)
    low = low if zero and low == 0 else low - margin
    high = high if zero and high == 0 else high + margin
    return Scale(low, high, start, end, whole=whole)


def svg(height: float, name: str, *parts: Markup) -> Markup:
    """Return the whole chart. Screen readers read its name."""
    return element("svg", element("title", name), *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", class_="chart")


def text(x: float, y: float, content: str, anchor: str = "middle", **attributes: str | float) -> Markup:
    """Return a text, anchored at ``start``, ``middle`` or ``end``."""
    return element("text", content, x=x, y=y, text_anchor=anchor, **attributes)


def axes(x: Scale, y: Scale, x_label: str, y_label: str, x_text: Callable[[float], str] = short) -> Markup:
    """Return grid, tick labels and axis names of a chart of the standard size."""
    parts: list[Markup] = []
    for tick in y.ticks():
        parts += [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid")]
        parts += [text(LEFT - 7, y(tick) + 4, short(tick), "end")]
    for tick in x.ticks(4 if x_text is date else 6):
        parts += [element("line", x1=x(tick), x2=x(tick), y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis")]
        parts += [text(x(tick), HEIGHT - BOTTOM + 17, x_text(tick))]
    parts += [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis")]
    parts += [text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 7, x_label, class_="name")]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [text(13, middle, y_label, class_="name", transform=f"rotate(-90 13 {middle:g})")]
    return Markup("").join(parts)


def _horizontal(values: Sequence[float], *, log: bool = False) -> Scale:
    return scale(values, LEFT, WIDTH - RIGHT, log=log)


def _vertical(values: Sequence[float], *, zero: bool = False) -> Scale:
    return scale(values, HEIGHT - BOTTOM, TOP, zero=zero)


def _path(points: Sequence[Point], **attributes: str | float) -> Markup:
    return element("path", d="M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points), **attributes)


def lines(
    curves: Mapping[str, Sequence[Point]],
    name: str,
    x_label: str,
    y_label: str,
    *,
    mark: tuple[float, float, str] | None = None,
    diagonal: bool = False,
    dots: bool = False,
) -> Markup:
    """Return a line chart.

    Args:
        curves: The points of each line, by the name of its series.
        name: Name of the chart.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        mark: x and y of a point to mark, and its label.
        diagonal: Draw the diagonal, as the ideal.
        dots: Draw a dot at each point.
    """
    finite = {
        label: [(px, py) for px, py in points if math.isfinite(px) and math.isfinite(py)]
        for label, points in curves.items()
    }
    drawn = [point for points in finite.values() for point in points]
    x, y = _horizontal([px for px, _ in drawn]), _vertical([py for _, py in drawn])
    parts = [axes(x, y, x_label, y_label)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(_path([(x(low), y(low)), (x(high), y(high))], class_="ideal"))
    for label, points in finite.items():
        if points:
            parts.append(_path([(x(px), y(py)) for px, py in points], class_=f"line {label}"))
        for px, py in points if dots else ():
            hint = element("title", f"{label}: {number(px)} → {number(py)}")
            parts.append(element("circle", hint, cx=x(px), cy=y(py), r=3.5, class_=f"dot {label}"))
    if mark:
        px, py, mark_label = mark
        parts += _mark(x(px), y(py), mark_label)
    return svg(HEIGHT, name, *parts)


def _mark(x: float, y: float, label: str) -> list[Markup]:
    anchor, offset = ("end", -8) if x > WIDTH * 0.7 else ("start", 8)
    return [
        element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark"),
        element("circle", cx=x, cy=y, r=4.5, class_="dot best"),
        text(x + offset, TOP + 12, label, anchor, class_="strong"),
    ]


def histogram(edges: Sequence[float], shares: Series, name: str, x_label: str, *, time: bool = False) -> Markup:
    """Return a histogram of each series over the same bins. ``time``: the edges are seconds since 1970."""
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = _vertical([share for series in shares.values() for share in series], zero=True)
    parts = [axes(x, y, x_label, "share of rows", date if time else short)]
    for label, series in shares.items():
        tops = [(x(edge), y(share)) for i, share in enumerate(series) for edge in (edges[i], edges[i + 1])]
        closed = [(tops[0][0], y(0)), *tops, (tops[-1][0], y(0))]
        parts += [_path(closed, class_=f"area {label}"), _path(tops, class_=f"line {label}")]
    return svg(HEIGHT, name, *parts)


def _row_label(value: str, y: float) -> Markup:
    shown = value if len(value) <= LABEL_CHARACTERS else value[: LABEL_CHARACTERS - 1] + "…"
    return text(LABELS - 10, y + 4, Markup("{}{}").format(element("title", value), shown), "end", class_="label")


def _bottom_axis(x: Scale, height: float, label: str) -> list[Markup]:
    """Return the vertical grid lines of a chart of rows, and the axis below it."""
    grid = [element("line", x1=x(t), x2=x(t), y1=TOP, y2=height - BOTTOM, class_="grid") for t in x.ticks()]
    numbers = [text(x(t), height - BOTTOM + 17, short(t)) for t in x.ticks()]
    return [*grid, *numbers, text((LABELS + WIDTH - RIGHT) / 2, height - 7, label, class_="name")]


def bars(labels: Sequence[str], series: Series, name: str, x_label: str) -> Markup:
    """Return horizontal bars: one row per label, one bar per series in it."""
    height = TOP + ROW * len(labels) + BOTTOM
    x = scale([v for values in series.values() for v in values], LABELS, WIDTH - RIGHT, zero=True)
    thickness = (ROW - ROW_GAP) / len(series)
    parts = _bottom_axis(x, height, x_label)
    for row, label in enumerate(labels):
        top = TOP + row * ROW + ROW_GAP / 2
        parts.append(_row_label(label, top + (ROW - ROW_GAP) / 2))
        for index, (series_name, values) in enumerate(series.items()):
            start, end = sorted((x(0), x(values[row])))
            hint = element("title", f"{label}, {series_name}: {number(values[row])}")
            box = {"x": start, "y": top + index * thickness, "width": end - start, "height": thickness - 0.5}
            parts.append(element("rect", hint, **box, rx=1.5, class_=f"bar {series_name}"))
    return svg(height, name, *parts)


def dumbbells(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], name: str, x_label: str) -> Markup:
    """Return one row per label with a dot per series; a line joins the first two and shows their difference."""
    height = TOP + ROW * len(labels) + BOTTOM
    x = scale([v for values in series.values() for v in values if v is not None], LABELS + 6, WIDTH - RIGHT)
    parts = _bottom_axis(x, height, x_label)
    for row, label in enumerate(labels):
        y = TOP + (row + 0.5) * ROW
        row_values = {series_name: values[row] for series_name, values in series.items()}
        finite = {key: value for key, value in row_values.items() if value is not None and math.isfinite(value)}
        ends = [x(value) for value in finite.values()][:2]
        parts.append(_row_label(label, y))
        if len(ends) == 2:
            parts.append(element("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="bell"))
        for series_name, value in reversed(finite.items()):
            hint = element("title", f"{label}, {series_name}: {number(value)}")
            parts.append(element("circle", hint, cx=x(value), cy=y, r=5.5, class_=f"dot {series_name}"))
    return svg(height, name, *parts)


def points(
    places: Sequence[tuple[float | str, float, str]], best: int, name: str, x_label: str, y_label: str
) -> Markup:
    """Return a dot for each (x, y, hint), the one at index ``best`` larger.

    Texts on the horizontal axis are spread evenly. Numbers over a wide range make it logarithmic.
    """
    texts = sorted({str(value) for value, _, _ in places}) if any(isinstance(place[0], str) for place in places) else []
    across = [float(texts.index(str(value))) if texts else float(value) for value, _, _ in places]
    log = not texts and min(across) > 0 and max(across) / min(across) >= LOGARITHMIC_RANGE
    x, y = _horizontal(across, log=log), _vertical([height for _, height, _ in places])
    parts = [axes(x, y, x_label, y_label, lambda tick: _text_at(texts, tick) if texts else short(tick))]
    best_on_top = [*(index for index in range(len(places)) if index != best), best]
    for index in best_on_top:
        style = {"r": 6.5, "class_": "dot best"} if index == best else {"r": 4.5, "class_": "dot trial"}
        hint = element("title", places[index][2])
        parts.append(element("circle", hint, cx=x(across[index]), cy=y(places[index][1]), **style))
    return svg(HEIGHT, name, *parts)


def _text_at(texts: Sequence[str], tick: float) -> str:
    return texts[int(tick)] if tick == int(tick) and 0 <= tick < len(texts) else ""


def _column_label(value: str, x: float, y: float, width: float) -> Markup:
    shown = value if len(value) <= width / 7 else value[: max(int(width / 7) - 1, 1)] + "…"
    return text(x, y, Markup("{}{}").format(element("title", value), shown))


def heatmap(labels: Sequence[str], shares: Sequence[Sequence[float]], name: str, x_label: str) -> Markup:
    """Return a square for each pair of labels, shaded by its share (0 to 1) of the row."""
    side = min(46.0, (WIDTH - LABELS - RIGHT) / max(len(labels), 1))
    height = TOP + side * len(labels) + BOTTOM
    parts: list[Markup] = []
    for row, label in enumerate(labels):
        middle = (row + 0.5) * side
        parts += [_row_label(label, TOP + middle), _column_label(label, LABELS + middle, height - BOTTOM + 17, side)]
        for column, share in enumerate(shares[row]):
            left, top = LABELS + column * side, TOP + row * side
            hint = element("title", f"{label} taken for {labels[column]}: {share:.1%}")
            shade = {"class_": "cell", "fill_opacity": 0.06 + 0.94 * share}
            parts.append(element("rect", hint, x=left, y=top, width=side - 1.5, height=side - 1.5, rx=2, **shade))
            if side > 26:
                tone = "cell-on" if share > 0.5 else "cell-off"
                parts.append(text(left + side / 2, top + side / 2 + 4, f"{share:.0%}", class_=tone))
    parts.append(text(LABELS + side * len(labels) / 2, height - 7, x_label, class_="name"))
    return svg(height, name, *parts)
