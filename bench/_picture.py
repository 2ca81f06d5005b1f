"""The pictures of the benches: ratios to a peer on one axis, and cost against size. Both go to ``results/NAME.svg``."""

from math import ceil, floor, log10

from _measure import RESULTS
from lastlayer.report.svg import Svg, group, line, tag, text

WIDE, ROW, LEFT, SIDE = 420, 22, 290, 300
STYLE = """
svg { font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #24292f; } .faint { fill: #59636e; } .grid { stroke: #d8dee4; }
.one { stroke: #59636e; } .bar { stroke: #24292f; stroke-width: 2; } polyline { fill: none; stroke-width: 2; }
.won { fill: #0b5fcc; } .lost { fill: #c2410c; }
.hue0 { stroke: #0b5fcc; } .hue1 { stroke: #c2410c; } .hue2 { stroke: #0f766e; } .hue3 { stroke: #7e22ce; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; } .grid { stroke: #30363d; }
.one { stroke: #9198a1; } .bar { stroke: #e6edf3; } .won { fill: #58a6ff; } .lost { fill: #ff9b6b; }
.hue0 { stroke: #58a6ff; } .hue1 { stroke: #ff9b6b; } .hue2 { stroke: #4fd1c0; } .hue3 { stroke: #c792ff; }
}
"""


def ratios(name, title, rows):
    """``rows`` of (label, ratio, bar or None): a dot each on an axis of powers of two, a stroke where the bar is.

    A ratio says how many times our speed is the peer's: right of the line at 1 we win (blue), left of it we lose.
    """
    values = [v for _, ratio, bar in rows for v in (ratio, bar) if v]
    low, high = min(0.5, *values) / 1.2, max(2.0, *values) * 1.2

    def x(ratio):
        return WIDE * log10(ratio / low) / log10(high / low)

    tall, inside = ROW * len(rows), []
    power = 2.0 ** ceil(log10(low) / log10(2))
    while power <= high:
        inside += [line(x(power), 0, x(power), tall, "one" if power == 1 else "grid")]
        inside += [text(x(power), tall + 16, f"{power:g}", class_="faint")]
        power *= 2
    for i, (label, ratio, bar) in enumerate(rows):
        at = ROW * (i + 0.5)
        inside += [text(-12, at + 4, label, "end")]
        if bar:
            inside += [line(x(bar), at - 8, x(bar), at + 8, "bar")]
        inside += [tag("circle", cx=f"{x(ratio):.1f}", cy=at, r=5, class_="won" if ratio >= 1 else "lost")]
    _write(name, title, LEFT + WIDE + 30, 44 + tall + 30, group((LEFT, 44), *inside))


def lines(name, title, across, up, series):
    """``series`` is ``{name: [(x, y)]}``; both axes are logarithmic, and ``across`` and ``up`` say what they show."""
    points = [p for line_ in series.values() for p in line_]
    ends = [(floor(log10(min(v))), ceil(log10(max(v)))) for v in zip(*points, strict=True)]
    (left, right), (bottom, top) = ((low, max(high, low + 1)) for low, high in ends)

    def at(p):
        return WIDE * (log10(p[0]) - left) / (right - left), SIDE * (top - log10(p[1])) / (top - bottom)

    inside = []
    for power in range(left, right + 1):
        x = at((10.0**power, 1))[0]
        inside += [line(x, 0, x, SIDE, "grid"), text(x, SIDE + 16, f"{10.0**power:g}", class_="faint")]
    for power in range(bottom, top + 1):
        y = at((1, 10.0**power))[1]
        inside += [line(0, y, WIDE, y, "grid"), text(-8, y + 4, f"{10.0**power:g}", "end", "faint")]
    inside += [text(WIDE / 2, SIDE + 36, across), text(-8, -12, up, "start", "faint")]
    for i, (label, measured) in enumerate(series.items()):
        drawn = [at(p) for p in sorted(measured)]
        inside += [tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in drawn), class_=f"hue{i % 4}")]
        inside += [text(drawn[-1][0] + 8, drawn[-1][1] + 4, label, "start")]
    _write(name, title, 70 + WIDE + 170, 66 + SIDE + 50, group((70, 66), *inside))


def _write(name, title, width, height, drawing):
    picture = tag(
        "svg",
        Svg(f"<style>{STYLE}</style>"),
        tag("rect", class_="paper", width=width, height=height),
        text(16, 24, title, "start"),
        drawing,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.svg").write_text(picture + "\n", "utf-8")
