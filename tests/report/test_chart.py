import math
from xml.etree import ElementTree

import numpy as np
import pytest

from lastlayer.measure import Metric
from lastlayer.measure.read import BinRow, CurveRow
from lastlayer.report import chart
from lastlayer.report.svg import tag
from lastlayer.state import Grid

BINS = [
    BinRow(0.0, 0.25, 0.0, math.nan, Metric(math.nan, 0, 1, 0)),
    BinRow(0.25, 0.5, 0.125, 0.4, Metric(0.5, 0.3, 0.7, 10)),
    BinRow(0.5, 1.0, 0.875, 0.9, Metric(0.6, 0.55, 0.65, 70)),
]


def drawn(svg, css=None, tag=None):
    found = [e for e in ElementTree.fromstring(svg).iter() if tag is None or e.tag == tag]
    return [e for e in found if css is None or css in e.get("class", "").split()]


def at(element, *names):
    return [float(element.get(name)) for name in names]


def test_a_point_lies_at_its_confidence_and_accuracy():
    points = drawn(chart.reliability(BINS), "point")
    assert at(points[1], "cx", "cy") == [0.4 * chart.SIDE, 0.5 * chart.SIDE]
    assert at(points[2], "cx", "cy") == [pytest.approx(0.9 * chart.SIDE), pytest.approx(0.4 * chart.SIDE)]


def test_an_interval_reaches_from_its_low_to_its_high_end():
    interval = drawn(chart.reliability(BINS), "interval")[2]
    assert at(interval, "y1", "y2") == [pytest.approx(0.45 * chart.SIDE), pytest.approx(0.35 * chart.SIDE)]


def test_the_gap_fills_what_is_between_confidence_and_accuracy():
    under, over = drawn(chart.reliability(BINS), "gap")[1:]
    assert at(over, "x", "width") == [0.5 * chart.SIDE, 0.5 * chart.SIDE]
    assert at(over, "y", "height") == [pytest.approx(0.1 * chart.SIDE), pytest.approx(0.3 * chart.SIDE)]
    assert "over" in over.get("class") and "under" in under.get("class")


def test_an_empty_bin_is_there_for_the_script_but_not_shown():
    groups = drawn(chart.reliability(BINS), "bin")
    assert [g.get("data-bin") for g in groups] == ["0", "1", "2"]
    assert [g.get("display") for g in groups] == ["none", None, None]


def test_share_bars_are_drawn_to_the_largest():
    bars = drawn(chart.reliability(BINS), "share")
    heights = [at(bar, "height")[0] for bar in bars]
    assert heights == [0, chart.SHARES / 7, chart.SHARES]
    assert [sum(at(bar, "y", "height")) for bar in bars] == [chart.SHARES] * 3


def test_the_rows_before_a_calibrator_are_drawn_without_the_empty_bins():
    assert len(drawn(chart.reliability(BINS, BINS), "before")) == 2
    assert drawn(chart.reliability(BINS), "before") == []


def test_axes_are_square():
    grid = [at(line, "x1", "x2", "y1", "y2") for line in drawn(chart.reliability(BINS), "grid")]
    assert {max(line) for line in grid} == {chart.SIDE}
    assert at(drawn(chart.reliability(BINS), "diagonal")[0], "x1", "y1", "x2", "y2") == [0, 400, 400, 0]


def test_histogram_bars_hold_what_the_grid_holds():
    odds = [-0.5, 0.5, 0.5, 0.5, 6.0, 6.0]
    weight = Grid.of(odds, [0, 1, 1, 1, 1, 0], (2,)).value()
    right, wrong = (drawn(chart.confidence_histogram(weight), side, "rect") for side in ("right", "wrong"))
    assert [at(bar, "height")[0] for bar in right] == [chart.HALF, pytest.approx(chart.HALF / 3, abs=0.01)]
    assert [at(bar, "height")[0] for bar in wrong] == [chart.HALF, chart.HALF]
    assert all(sum(at(bar, "y", "height")) == pytest.approx(chart.HALF, abs=0.011) for bar in right)
    assert all(at(bar, "y")[0] == chart.HALF for bar in wrong)


@pytest.mark.parametrize("value", [0, 1, 5])
def test_a_bar_stands_over_the_tick_of_its_log_odds(value):
    odds = np.linspace(-2, 8, 3000)
    weight = np.stack([np.zeros(4096), Grid.of(odds, 0, (1,)).value()[0]])
    weight[0] = Grid.of([value + 1e-9], 0, (1,)).value()[0]
    svg = chart.confidence_histogram(weight)
    (bar,) = drawn(svg, "wrong", "rect")
    tick = next(e for e in drawn(svg, tag="text") if e.text == str(value))
    x, width = at(bar, "x", "width")
    assert x - 1 <= at(tick, "x")[0] <= x + width + 1


def test_margins_get_no_probabilities():
    weight = Grid.of([0.5, 6.0], [0, 1], (2,)).value()
    said = [[e.text for e in drawn(chart.confidence_histogram(weight, p), tag="text")] for p in (True, False)]
    assert "73 %" in said[0] and not any("%" in text for text in said[1][2:])


@pytest.mark.parametrize(
    ("odds", "text"), [(0, "50 %"), (2, "88 %"), (-2, "12 %"), (5, "99.3 %"), (10, "99.995 %"), (20, "1 − 2e−9")]
)
def test_probabilities_have_the_digits_that_tell_them_from_one(odds, text):
    assert chart._probability(odds) == text


def losses(values):
    return [CurveRow(2.0**k, v, 0.1, 0.5, []) for k, v in zip(range(-1, len(values) - 1), values, strict=True)]


def test_the_curve_is_logarithmic_and_marks_its_lowest_point():
    svg = chart.temperature_curve(losses([4.0, 2.0, 1.0]))
    (line,) = drawn(svg, "curve", "polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    assert points == [(0, 0), (chart.WIDE / 2, chart.CURVE / 2), (chart.WIDE, chart.CURVE)]
    assert at(drawn(svg, "best")[0], "cx", "cy") == [chart.WIDE, chart.CURVE]
    assert at(drawn(svg, "here")[0], "x1", "x2") == [chart.WIDE / 2, chart.WIDE / 2]


@pytest.mark.parametrize("values", [[math.inf] * 3, [math.nan] * 3, [0.0] * 3])
def test_a_loss_without_a_scale_has_no_curve(values):
    assert chart.temperature_curve(losses(values)) == ""


def test_a_mark_shows_the_sign_and_the_size_of_a_difference():
    (dot,) = drawn(chart.interval_mark(Metric(0.05, 0.0, 0.2, 9), 0.1), tag="circle")
    assert at(dot, "cx") == [0.75 * chart.MARK]
    (line,) = drawn(chart.interval_mark(Metric(-0.05, -0.2, 0.0, 9), 0.1), "under", "line")
    assert at(line, "x1", "x2") == [0, chart.MARK / 2]
    assert chart.interval_mark(Metric(math.nan, 0, 1, 0), 0.1) == ""


def test_every_chart_says_what_it_shows():
    weight = Grid.of([0.5, 6.0], [0, 1], (2,)).value()
    charts = (chart.reliability(BINS), chart.confidence_histogram(weight), chart.temperature_curve(losses([2.0, 1.0])))
    for svg in charts:
        root = ElementTree.fromstring(svg)
        named = {e.get("id"): e.text for e in root.iter() if e.get("id")}
        assert root.get("role") == "img"
        assert all(named[part] for part in root.get("aria-labelledby").split())


def test_text_and_attributes_are_escaped():
    text = tag("text", '<b>&"', class_='"><script>')
    element = ElementTree.fromstring(text)
    assert (element.text, element.get("class")) == ('<b>&"', '"><script>')
