"""The plot of docs/numerics.md: error against margin, one panel for the loss and one for its gradient."""

from html import escape
from math import log10

WIDE, HIGH, LANE = 360, 250, 13
LOWEST, HIGHEST = -1.0, 8.0  # powers of ten
SERIES = ("lastlayer", "PyTorch", "SciPy", "JAX", "optax")
STYLE = """
svg { font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #24292f; } .faint { fill: #59636e; } .grid { stroke: #d8dee4; }
.bar { stroke: #24292f; stroke-dasharray: 2 3; } polyline { fill: none; stroke-width: 1.5; }
.lastlayer { stroke: #0b5fcc; stroke-width: 3; } .PyTorch { stroke: #c2410c; } .SciPy { stroke: #0f766e; }
.JAX { stroke: #7e22ce; stroke-dasharray: 6 3; } .optax { stroke: #a16207; stroke-dasharray: 2 2; }
rect.lost { stroke: none; } rect.PyTorch { fill: #c2410c; } rect.SciPy { fill: #0f766e; } rect.JAX { fill: #7e22ce; }
rect.optax { fill: #a16207; } rect.lastlayer { fill: #0b5fcc; } .lane { fill: #eef1f4; stroke: none; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; } .grid { stroke: #30363d; }
.bar { stroke: #e6edf3; } .lane { fill: #1b222b; }
.lastlayer { stroke: #58a6ff; } .PyTorch { stroke: #ff9b6b; } .SciPy { stroke: #4fd1c0; }
.JAX { stroke: #c792ff; } .optax { stroke: #e3b341; }
rect.PyTorch { fill: #ff9b6b; } rect.SciPy { fill: #4fd1c0; } rect.JAX { fill: #c792ff; } rect.optax { fill: #e3b341; }
rect.lastlayer { fill: #58a6ff; }
}
"""


def plot(panels, bar, said):
    """``panels`` is ``{title: {series: [(margin, worst error, share lost)]}}``; ``said`` describes it in a sentence."""
    drawn = [
        _group(130 + i * (WIDE + 50), 30, _panel(title, panel, bar)) for i, (title, panel) in enumerate(panels.items())
    ]
    names = [
        _text(-52, 12 + LANE * i, name, "end")
        + f'<line x1="-46" x2="-10" y1="{8 + LANE * i}" y2="{8 + LANE * i}" class="{name}"/>'
        for i, name in enumerate(SERIES)
    ]
    width, height = 130 + 2 * WIDE + 50 + 20, 30 + LANE * len(SERIES) + HIGH + 60
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
            f'aria-label="{escape(said)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height}"/>',
            _group(130, 30, names),
            *drawn,
            "</svg>\n",
        ]
    )


def _panel(title, panel, bar):
    below = LANE * len(SERIES) + 8
    inside = [_text(WIDE / 2, -10, title), _text(WIDE, -10, "rows lost", "end", "faint")]
    inside.append(_text(WIDE - 2, below + 14, "worst error in ULP", "end", "faint"))
    for i, name in enumerate(SERIES):
        inside.append(f'<rect class="lane" x="0" y="{LANE * i + 2}" width="{WIDE}" height="{LANE - 2}"/>')
        inside += [
            f'<rect class="lost {name}" x="{_x(margin - 0.5):.1f}" y="{LANE * i + 2}" width="{WIDE / 81:.2f}" '
            f'height="{LANE - 2}" fill-opacity="{share:.2f}"/>'
            for margin, _, share in panel[name]
            if share
        ]
    for power in range(int(LOWEST), int(HIGHEST) + 1):
        y = below + _y(10.0**power)
        inside.append(f'<line class="grid" x1="0" x2="{WIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{10.0**power:g}" if power < 4 else f"1e{power}"
        inside.append(_text(-8, y + 4, label, "end", "faint") if power % 2 == 0 else "")
    for margin in range(0, 81, 20):
        inside.append(_text(_x(margin), below + HIGH + 18, margin, "middle", "faint"))
    y = below + _y(bar)
    inside.append(f'<line class="bar" x1="0" x2="{WIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
    inside.append(_text(WIDE - 2, y - 6, f"bar: {bar} ULP", "end", "faint"))
    for name in reversed(SERIES):
        for run in _runs(panel[name]):
            points = " ".join(f"{_x(margin):.1f},{below + _y(worst):.1f}" for margin, worst in run)
            inside.append(f'<polyline class="{name}" points="{points}"/>')
    inside.append(_text(WIDE / 2, below + HIGH + 38, "margin: the target's logit less the largest other"))
    return inside


def _runs(points):
    """The errors in runs of margins at which some row is not lost."""
    runs = [[]]
    for margin, worst, share in points:
        if share < 1:
            runs[-1].append((margin, worst))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _x(margin):
    return WIDE * (margin + 0.5) / 81


def _y(error):
    height = (log10(min(max(error, 10**LOWEST), 10**HIGHEST)) - LOWEST) / (HIGHEST - LOWEST)
    return HIGH * (1 - height)


def _group(x, y, inside):
    return f'<g transform="translate({x} {y})">\n' + "\n".join(filter(None, inside)) + "\n</g>"


def _text(x, y, words, anchor="middle", kind=""):
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(str(words))}</text>'
