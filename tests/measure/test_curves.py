"""Ranking measures from levels, and calibration errors from bins, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from lastlayer.measure.curves import average_precision_of, calibration_error_of, levels_of, macro, roc_auc_of
from lastlayer.measure.metric import Z95, Metric
from lastlayer.state import Bins, cells

steady = settings(derandomize=True, deadline=None, database=None, max_examples=150)


@st.composite
def ranked_rows(draw):
    """Scores with ties and both kinds of rows."""
    n = draw(st.integers(2, 40))
    scores = draw(arrays(np.float64, n, elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-8, 8))))
    positive = draw(arrays(np.int64, n, elements=st.integers(0, 1)))
    positive[:2] = 0, 1
    return scores, positive


def delong(scores, positive):
    """AUC and its error from every pair, as in DeLong et al. 1988, equations 1 and 5."""
    x, y = scores[positive == 1], scores[positive == 0]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    auc = psi.mean()
    by_x, by_y = psi.mean(1), psi.mean(0)
    s10 = ((by_x - auc) ** 2).sum() / max(len(x) - 1, 1)
    s01 = ((by_y - auc) ** 2).sum() / max(len(y) - 1, 1)
    return auc, np.sqrt(s10 / len(x) + s01 / len(y))


@steady
@given(ranked_rows())
def test_roc_auc_and_its_error_are_those_of_all_pairs(rows):
    scores, positive = rows
    found = roc_auc_of(*levels_of(scores, positive), len(scores))
    auc, error = delong(scores, positive)
    assert found == pytest.approx(auc, abs=1e-12)
    assert found == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    if 0 < auc < 1:
        center, half = np.log(auc / (1 - auc)), Z95 * error / (auc * (1 - auc))
        want = 1 / (1 + np.exp(-(center + np.array([-half, half]))))
        assert (found.low, found.high) == pytest.approx(tuple(want), abs=1e-9)
    assert found.bound == 0


@steady
@given(ranked_rows())
def test_average_precision_is_scikit_learns_step_sum(rows):
    scores, positive = rows
    found = average_precision_of(*levels_of(scores, positive), len(scores))
    assert found == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
    assert found.bound == 0


@pytest.mark.parametrize("measure", [roc_auc_of, average_precision_of])
@steady
@given(ranked_rows(), st.data())
def test_a_weight_is_that_many_rows(measure, rows, data):
    scores, positive = rows
    weight = data.draw(arrays(np.int64, len(scores), elements=st.integers(0, 3)))
    weight[:2] = 1
    repeated = np.repeat(scores, weight), np.repeat(positive, weight)
    found = measure(*levels_of(scores, positive, weight), len(scores))
    assert found == pytest.approx(measure(*levels_of(*repeated), len(repeated[0])), abs=1e-12)


def on_grid(scores, positive, weight=None):
    return levels_of(cells(scores).astype(float), positive, weight)


@pytest.mark.parametrize("measure", [roc_auc_of, average_precision_of])
@pytest.mark.parametrize("width", [1e-3, 0.02, 0.3])  # of the scores: within one cell, over four, over sixty
@pytest.mark.parametrize("weighted", [False, True])
@steady
@given(st.integers(0, 2**32 - 1))
def test_the_grid_is_within_its_bound_of_the_exact_value(measure, width, weighted, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    scores, positive = rng.normal(scale=width, size=n), rng.integers(0, 2, n)
    scores = np.round(scores, int(rng.integers(2, 7)))  # some ties
    positive[:2] = 0, 1
    weight = rng.uniform(0.1, 3, n) if weighted else np.ones(n)
    rows = tuple(weight[positive == y].sum() ** 2 / (weight[positive == y] ** 2).sum() for y in (1, 0))
    exact = measure(*levels_of(scores, positive, weight), n, rows if weighted else None)
    found = measure(*on_grid(scores, positive, weight), n, rows if weighted else None, exact=False)
    assert abs(found - exact) <= found.bound + 1e-12
    assert found.low <= exact <= found.high


@pytest.mark.parametrize("measure", [roc_auc_of, average_precision_of])
def test_the_bound_is_0_without_undecided_pairs_and_attained_with_one(measure):
    apart = measure(*on_grid(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 1])), 4, exact=False)
    assert apart.bound == 0
    near = np.array([1e-4, 2e-4])  # one cell
    undecided = measure(*on_grid(near, np.array([0, 1])), 2, exact=False)
    assert (undecided, undecided.bound) == (0.5, 0.5)
    assert measure(*levels_of(near, np.array([0, 1])), 2) == undecided + undecided.bound


def test_one_kind_of_rows_alone_cannot_be_ranked():
    scores = np.arange(4.0)
    assert np.isnan(roc_auc_of(*levels_of(scores, np.ones(4)), 4))
    assert np.isnan(roc_auc_of(*levels_of(scores, np.zeros(4)), 4))
    assert np.isnan(average_precision_of(*levels_of(scores, np.zeros(4)), 4))
    assert average_precision_of(*levels_of(scores, np.ones(4)), 4) == 1


def test_macro_is_the_mean_over_known_classes():
    known = [Metric(0.5, 0.4, 0.6, 9, 0.1), Metric(0.7, 0.5, 1.0, 9, 0.3)]
    found = macro([known[0], Metric(np.nan, 0, 1, 9), known[1]])
    assert (found.value, found.low, found.high, found.n, found.bound) == pytest.approx((0.6, 0.45, 0.8, 9, 0.2))
    assert np.isnan(macro([Metric(np.nan, 0, 1, 9)]))
    assert macro([]).n == 0


def plain_errors(confidence, hit, weight, bins):
    """The three norms from loops over bins (low, high]."""
    share, gap = [], []
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if weight[inside].sum() > 0:
            share.append(weight[inside].sum() / weight.sum())
            gap.append((weight * (hit - confidence))[inside].sum() / weight[inside].sum())
    share, gap = np.array(share), np.abs(gap)
    return {"l1": share @ gap, "l2": np.sqrt(share @ gap**2), "max": gap.max()}


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_is_the_loop_over_bins(norm, seed):
    rng = np.random.default_rng(seed)
    confidence, weight = rng.uniform(0.01, 1, 300), rng.choice([0.5, 1.0, 2.0], 300)
    hit = (rng.uniform(size=300) < confidence**2).astype(float)
    state = Bins.of(confidence, hit, weight)
    found = calibration_error_of(state, 300, weight.sum() / (weight**2).sum(), norm)
    assert found == pytest.approx(plain_errors(confidence, hit, weight, 15)[norm], abs=1e-13)
    assert found.low < found < found.high


def test_calibration_error_over_columns_is_their_mean_or_sum():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.01, 1, (200, 3))
    hits = (rng.uniform(size=(200, 3)) < confidence**2).astype(float)
    state = Bins.of(confidence, hits)
    one = [plain_errors(confidence[:, k], hits[:, k], np.ones(200), 15)["l1"] for k in range(3)]
    assert calibration_error_of(state, 200) == pytest.approx(np.mean(one), abs=1e-13)
    assert calibration_error_of(state, 200, combine="sum") == pytest.approx(np.sum(one), abs=1e-13)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_error_of_l1_and_l2_is_that_of_a_mean_over_rows(norm):
    """l1 is the mean of sign_b (hit - confidence), l2 of gap_b / l2 (hit - confidence), with the gaps as found."""
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.01, 1, 300)
    hit = (rng.uniform(size=300) < confidence**2).astype(float)
    found = calibration_error_of(Bins.of(confidence, hit), 300, norm=norm)
    cell = np.ceil(confidence * 15).astype(int) - 1
    gap = np.array([(hit - confidence)[cell == b].mean() for b in range(15)])
    slope = np.sign(gap) if norm == "l1" else gap / found
    rows = slope[cell] * (hit - confidence)
    assert found == pytest.approx(rows.mean())
    reach = Z95 * rows.std(ddof=1) / np.sqrt(300)
    assert (found.low, found.high) == pytest.approx((found - reach, found + reach))


def test_the_interval_of_the_largest_gap_holds_for_every_bin_at_once():
    confidence = np.repeat([0.2, 0.5, 0.9], [10, 2, 40])
    hit = np.concatenate([np.arange(10) < 5, [1, 1], np.arange(40) < 20]).astype(float)
    found = calibration_error_of(Bins.of(confidence, hit), 52, norm="max")
    assert found == pytest.approx(0.5)
    below, above = [], []
    for c in (0.2, 0.5, 0.9):
        mine = hit[confidence == c].astype(int)
        ends = binomtest(mine.sum(), len(mine)).proportion_ci(1 - 0.05 / 3, method="wilson")
        below.append(max(ends.low - c, c - ends.high, 0))
        above.append(max(c - ends.low, ends.high - c))
    assert (found.low, found.high) == pytest.approx((max(below), max(above)))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_single_row_has_no_spread_so_its_error_may_be_anything(norm):
    found = calibration_error_of(Bins.of(np.array([0.9]), np.array([1.0])), 1, norm=norm)
    assert (found.low, found.high) == (0, 1)
    assert found == pytest.approx(0.1)


def test_calibration_error_of_no_rows_is_unknown():
    found = calibration_error_of(Bins.empty(), 0)
    assert np.isnan(found)
    assert (found.low, found.high) == (0, 1)
