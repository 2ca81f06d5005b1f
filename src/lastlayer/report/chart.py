"""The charts of the report as SVG: drawn here from sums, coloured by the page's style sheet, moved by its script.

The reliability plot is a square of ``SIDE`` units: a share v lies at ``x = SIDE v`` and at ``y = SIDE (1 - v)``.
"""

import math

import numpy as np

from lastlayer.measure import Metric
from lastlayer.report.svg import Svg, group, line, px, tag, text
from lastlayer.report.wording import count, number, percent
from lastlayer.state import GRID_CELLS, GRID_REACH

SIDE = 400  # of the reliability plot
SHARES = 70  # height of the bars of rows per bin beneath it
BARS = 48  # at most, in the histogram of log-odds
WIDE, HALF = 440, 92  # plot of the histogram: width, and height of either half
CURVE = 110  # height of the temperature curve
MARK = 120  # width of the interval drawn in a table's cell


def reliability(bins, before=None) -> Svg:
    """Confidence against how often it was right, with intervals, and the share of rows per bin beneath.

    ``bins`` and ``before`` are rows of `Evaluation.reliability`; ``before`` is drawn faintly.
    """
    ticks = [0, 0.25, 0.5, 0.75, 1]
    grid = [line(SIDE * t, 0, SIDE * t, SIDE, "grid") for t in ticks]
    grid += [line(0, SIDE * t, SIDE, SIDE * t, "grid") for t in ticks]
    left = [text(-8, SIDE * (1 - t) + 4, f"{100 * t:.0f} %", "end") for t in ticks]
    below = [text(SIDE * t, SIDE + 18, f"{100 * t:.0f} %") for t in ticks]
    words = [
        text(SIDE - 10, SIDE - 12, "over-confident", "end", "faint"),
        text(10, 20, "under-confident", "start", "faint"),
        tag("text", "share that was right", transform=f"translate(-46 {SIDE / 2}) rotate(-90)", text_anchor="middle"),
    ]
    faint = [
        tag("circle", cx=px(SIDE * b.confidence), cy=px(SIDE * (1 - b.accuracy)), r=4, class_="before")
        for b in before or []
        if b.share > 0
    ]
    most = max(b.share for b in bins)
    shares = [_share_bar(b, i, most) for i, b in enumerate(bins)]
    base = group(
        (0, SIDE + 30),
        line(0, SHARES, SIDE, SHARES, "axis"),
        *shares,
        text(-8, 10, percent(most), "end", "most"),
        text(-8, SHARES, "0", "end"),
        text(SIDE / 2, SHARES + 20, "confidence, and the share of rows that has it"),
    )
    diagonal = line(0, SIDE, SIDE, 0, "diagonal")
    points = [_bin_point(b, i) for i, b in enumerate(bins)]
    over = sum(b.share for b in bins if b.share > 0 and b.accuracy < b.confidence)
    said = f"In bins that hold {percent(over)} of the rows the confidence is above the share that was right."
    plot = group((64, 12), *grid, *left, *below, *words, diagonal, *faint, *points, base)
    return _svg("reliability", "Reliability diagram", said, 64 + SIDE + 24, SIDE + SHARES + 70, plot)


def confidence_histogram(weight, probable=True) -> Svg:
    """Log-odds of the predicted class, of right rows upwards and of wrong rows downwards.

    ``weight`` is the (2, cells) histogram of `Evaluation.odds`: wrong, right. ``probable`` adds the probability to the
    ticks. Bars are runs of cells, so they are even in asinh.
    """
    occupied = np.flatnonzero(weight.sum(0))
    first, last = (int(occupied[0]), int(occupied[-1])) if len(occupied) else (0, 0)
    step = max(1, math.ceil((last - first + 1) / BARS))
    bars = max(math.ceil((last - first + 1) / step), BARS // 2)
    padded = np.zeros((2, bars * step))
    padded[:, : last - first + 1] = weight[:, first : last + 1]
    wrong, right = padded.reshape(2, bars, step).sum(2)
    total = float(weight.sum())
    halves = _half(right, "right", total, -1) + _half(wrong, "wrong", total, 1)
    start, end = _reach(first), _reach(first + bars * step)
    ticks = _odds_ticks(start, end, probable)
    title = "log-odds of the predicted class" + (", and its probability" if probable else ", reading margins as logits")
    axis = group((0, 2 * HALF + 22), *ticks, text(WIDE / 2, 54 if probable else 40, title))
    said = f"{percent(right.sum() / total)} right, {percent(wrong.sum() / total)} wrong." if total else "No rows."
    plot = group((34, 22), *halves, line(0, HALF, WIDE, HALF, "axis"), axis)
    return _svg("histogram", "Confidence of right and wrong predictions", said, WIDE + 68, 2 * HALF + 104, plot)


def temperature_curve(curve) -> Svg:
    """The loss at each temperature of the grid, on logarithmic axes, the lowest marked; empty if it has no scale."""
    loss = np.array([point.nll for point in curve])
    drawn = np.isfinite(loss) & (loss > 0)
    if drawn.sum() < 2:
        return Svg("")
    low, high = np.log(loss[drawn].min()), np.log(loss[drawn].max())
    at = temperature_positions(curve)
    with np.errstate(all="ignore"):
        height = CURVE * (1 - (np.log(loss) - low) / max(high - low, 1e-9))  # 1e-9: a loss that no temperature changes
    path = " ".join(f"{px(at[i])},{px(height[i])}" for i in np.flatnonzero(drawn))
    best = lowest(curve)
    whole = [i for i, point in enumerate(curve) if math.log2(point.temperature).is_integer()]
    ticks = [text(at[i], CURVE + 20, f"{curve[i].temperature:g}") for i in whole]
    marks = [line(at[i], 0, at[i], CURVE + 4, "grid") for i in whole]
    plot = group(
        (56, 12),
        *marks,
        line(0, CURVE + 4, WIDE, CURVE + 4, "axis"),
        *ticks,
        text(-6, 4, number(np.exp(high)), "end"),
        text(-6, CURVE + 4, number(np.exp(low)), "end"),
        text(WIDE, -2, "NLL, logarithmic", "end", "faint"),
        tag("polyline", points=path, class_="curve"),
        tag("circle", cx=px(at[best]), cy=px(height[best]), r=5, class_="best"),
        line(at[given(curve)], -6, at[given(curve)], CURVE + 4, "here"),
        text(WIDE / 2, CURVE + 42, "temperature: every logit is divided by it"),
    )
    said = f"Lowest at temperature {number(curve[best].temperature)}: {number(loss[best])}."
    return _svg("curve", "NLL at each temperature", said, WIDE + 68, CURVE + 60, plot)


def temperature_positions(curve) -> list[float]:
    """Where each temperature lies across the plot; the grid is even in the logarithm."""
    return [WIDE * i / (len(curve) - 1) for i in range(len(curve))]


def lowest(curve) -> int:
    """The index of the temperature with the lowest loss."""
    return min(range(len(curve)), key=lambda i: curve[i].nll)


def given(curve) -> int:
    """The index of temperature 1: the rows as they are."""
    return min(range(len(curve)), key=lambda i: abs(math.log(curve[i].temperature)))


def interval_mark(metric: Metric, reach) -> Svg:
    """A difference and its interval around zero, on an axis from ``-reach`` to ``reach``, for a cell of a table."""
    if not math.isfinite(metric) or not reach > 0:
        return Svg("")
    side = "over" if metric > 0 else "under"
    low, middle, high = (MARK / 2 * (1 + min(max(v / reach, -1), 1)) for v in (metric.low, metric, metric.high))
    parts = [
        line(MARK / 2, 0, MARK / 2, 14, "zero"),
        line(low, 7, high, 7, side),
        tag("circle", cx=px(middle), cy=7, r=3, class_=side),
    ]
    return Svg(tag("svg", *parts, class_="mark", viewBox=f"-4 0 {MARK + 8} 14", aria_hidden="true"))


def _bin_point(b, index):
    """The gap to the diagonal over the width of the bin, the interval, and the point."""
    known = b.share > 0
    confidence, accuracy, low, high = (
        (b.confidence, float(b.accuracy), b.accuracy.low, b.accuracy.high) if known else (0, 0, 0, 0)
    )
    x, top = SIDE * confidence, max(confidence, accuracy)
    tip = f"{percent(confidence)} claimed, {percent(accuracy)} right ({percent(low)} to {percent(high)}), "
    gap = tag(
        "rect",
        x=px(SIDE * b.low),
        y=px(SIDE * (1 - top)),
        width=px(SIDE * (b.high - b.low)),
        height=px(SIDE * abs(confidence - accuracy)),
        class_="gap over" if accuracy < confidence else "gap under",
    )
    interval = line(x, SIDE * (1 - low), x, SIDE * (1 - high), "interval")
    point = tag("circle", cx=px(x), cy=px(SIDE * (1 - accuracy)), r=4.5, class_="point")
    title = tag("title", tip + f"{percent(b.share)} of the rows")
    hidden = {} if known else {"display": "none"}
    return tag("g", title, gap, interval, point, class_="bin", data_bin=index, **hidden)


def _share_bar(b, index, most):
    height = SHARES * b.share / most if most > 0 else 0
    x, width = SIDE * b.low + 1, SIDE * (b.high - b.low) - 2
    return tag(
        "rect",
        x=px(x),
        y=px(SHARES - height),
        width=px(width),
        height=px(height),
        class_="share",
        data_bin=index,
    )


def _half(bars, name, total, direction):
    """Bars of the right rows above the axis, of the wrong ones below it, each to its own height."""
    most = bars.max()
    width = WIDE / len(bars)
    drawn = []
    for i in np.flatnonzero(bars):
        height = HALF * bars[i] / most
        y = HALF - height if direction < 0 else HALF
        drawn.append(tag("rect", x=px(i * width + 0.5), y=px(y), width=px(width - 1), height=px(height), class_=name))
    share = percent(bars.sum() / total) if total else "–"
    label = text(0, -8 if direction < 0 else 2 * HALF + 14, f"{name}: {share} ({count(bars.sum())})", "start", name)
    return [*drawn, label]


def _reach(cell):
    """asinh of the log-odds at the low end of a cell of the grid."""
    return -GRID_REACH + (cell - 1) * 2 * GRID_REACH / (GRID_CELLS - 2)


def _odds_ticks(start, end, probable):
    """Round log-odds from zero outwards, as many as have room."""
    steps = [d * 10**e for e in range(5) for d in (1, 2, 5)]
    taken, drawn = [], []
    for odds in sorted([0, *steps, *(-s for s in steps)], key=lambda v: (abs(v), -v)):
        x = WIDE * (math.asinh(odds) - start) / (end - start)
        if not 0 <= x <= WIDE or any(abs(x - other) < 56 for other in taken):
            continue
        taken.append(x)
        drawn += [line(x, 0, x, 5, "axis"), text(x, 20, f"{odds}".replace("-", "−"))]
        if probable:
            drawn.append(text(x, 35, _probability(odds), class_="faint"))
    return drawn


def _probability(odds):
    """The probability of a log-odds with as many digits as tell it from 0 and 1."""
    rest = 1 / (1 + math.exp(min(abs(odds), 700)))
    if rest < 1e-5:
        return f"{'1 − ' if odds > 0 else ''}{rest:.0e}".replace("e-0", "e-").replace("e-", "e−")
    decimals = max(0, -math.floor(math.log10(100 * rest)))
    return f"{100 * (1 - rest if odds > 0 else rest):.{decimals}f} %"


def _svg(name, title, said, width, height, *content):
    identity = f"{name}-title"
    return Svg(
        tag(
            "svg",
            tag("title", title, id=identity),
            tag("desc", said, id=f"{name}-desc"),
            *content,
            class_=f"chart {name}",
            viewBox=f"0 0 {width} {height}",
            role="img",
            aria_labelledby=f"{identity} {name}-desc",
        )
    )
