"""Measures of arrays against plain float64 NumPy, scikit-learn where it is exact, and mpmath in the tails."""

import itertools

import mpmath
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, log_loss, roc_auc_score, top_k_accuracy_score

import lastlayer as ll
from lastlayer._check import DataError
from lastlayer.measure.metric import Z95


def sample(task, n=200, seed=0):
    """Logits, target, probabilities of each column and their occurrence."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        z = rng.normal(scale=2, size=(n, 4))
        y = rng.integers(0, 4, n)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return z, y, p, np.eye(4)[y]
    z = rng.normal(scale=2, size=n if task == "binary" else (n, 3))
    y = (rng.uniform(size=z.shape) < 1 / (1 + np.exp(-z / 2))).astype(int)
    p = 1 / (1 + np.exp(-z))
    return z, y, p.reshape(n, -1), y.reshape(n, -1).astype(float)


def decisions(task, z, y, p, occurs):
    """Confidence and hit of each decision: a row, or a row's label."""
    if task == "multiclass":
        return p.max(1), (z.argmax(1) == y).astype(float)
    return np.maximum(p, 1 - p).ravel(), ((p > 0.5) == (occurs == 1)).astype(float).ravel()


every_task = pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])


@every_task
def test_nll_brier_and_accuracy_are_their_definitions(task):
    z, y, p, occurs = sample(task)
    costs = -np.log(p[occurs == 1]) if task == "multiclass" else -np.log(np.where(occurs == 1, p, 1 - p)).sum(1)
    squares = ((p - occurs) ** 2).sum(1)
    for found, rows in ((ll.nll(z, y), costs), (ll.brier(z, y), squares)):
        error = rows.std(ddof=1) / np.sqrt(len(rows))
        assert found == pytest.approx(rows.mean(), rel=1e-12)
        assert (found.low, found.high) == pytest.approx(
            (rows.mean() - Z95 * error, rows.mean() + Z95 * error), rel=1e-9
        )
        assert found.n == len(rows)
    hits = decisions(task, z, y, p, occurs)[1]
    assert ll.accuracy(z, y) == pytest.approx(hits.mean(), abs=1e-15)


def test_nll_is_scikit_learns_log_loss_where_nothing_is_clipped():
    z, y, p, _ = sample("multiclass")
    assert ll.nll(z, y) == pytest.approx(log_loss(y, p), rel=1e-12)


def test_soft_targets_are_weighted_by_their_probability():
    z, _, p, _ = sample("multiclass")
    q = np.random.default_rng(3).dirichlet(np.ones(4), len(z))
    assert ll.nll(z, q) == pytest.approx(-(q * np.log(p)).sum(1).mean(), rel=1e-12)
    assert ll.brier(z, q) == pytest.approx(((p - q) ** 2).sum(1).mean(), rel=1e-12)
    for measure in (ll.accuracy, ll.calibration_error, ll.roc_auc, ll.average_precision, ll.confusion):
        with pytest.raises(ValueError, match=rf"target is a distribution; {measure.__name__} counts hits"):
            measure(z, q)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_accuracy_is_scikit_learns(k):
    z, y, *_ = sample("multiclass")
    assert ll.accuracy(z, y, k=k) == pytest.approx(top_k_accuracy_score(y, z, k=k), abs=1e-15)


def test_ties_go_to_the_lower_index():
    z = [[1.0, 1.0, 0.0]]
    assert [float(ll.accuracy(z, [y])) for y in (0, 1, 2)] == [1, 0, 0]
    assert [float(ll.accuracy(z, [y], k=2)) for y in (0, 1, 2)] == [1, 1, 0]
    assert [float(ll.accuracy([0.0], [y])) for y in (0, 1)] == [1, 0]


def test_k_outside_the_classes_or_for_two_is_refused():
    with pytest.raises(ValueError, match="between 1 and the 2 classes, not 3"):
        ll.accuracy([[0.0, 1.0]], [0], k=3)
    with pytest.raises(ValueError, match="these are binary"):
        ll.accuracy([0.0, 1.0], [0, 1], k=2)


def binned(confidence, hits, edges):
    """Mean gap and share of bins (low, high]."""
    share, gap = [], []
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            share.append(inside.mean())
            gap.append(abs((hits - confidence)[inside].mean()))
    return np.array(share), np.array(gap)


NORMS = {"l1": lambda s, g: s @ g, "l2": lambda s, g: np.sqrt(s @ g**2), "max": lambda s, g: g.max()}


@every_task
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_with_width_bins(task, norm, bins):
    rows = sample(task)
    z, y, p, occurs = rows
    edges = np.linspace(0, 1, bins + 1)
    top = NORMS[norm](*binned(*decisions(task, *rows), edges))
    assert ll.calibration_error(z, y, bins=bins, norm=norm) == pytest.approx(top, abs=1e-12)
    by_class = [NORMS[norm](*binned(p[:, k], occurs[:, k], edges)) for k in range(p.shape[1])]
    found = ll.calibration_error(z, y, bins=bins, norm=norm, over="classwise")
    assert found == pytest.approx(np.mean(by_class), abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_calibration_error_with_mass_bins_has_equal_counts(norm):
    rows = sample("multiclass", n=200)
    confidence, hits = decisions("multiclass", *rows)
    order = np.argsort(confidence)
    gap = np.abs((hits - confidence)[order].reshape(10, 20).mean(1))
    want = NORMS[norm](np.full(10, 0.1), gap)
    assert ll.calibration_error(*rows[:2], bins=10, scheme="mass", norm=norm) == pytest.approx(want, abs=1e-12)


def test_mass_bins_tell_probabilities_apart_that_round_to_1():
    z = np.stack([np.linspace(40, 80, 100), np.zeros(100)], 1)
    y = np.repeat([1, 0], 50)  # the less sure half is wrong
    assert ll.calibration_error(z, y, bins=2, scheme="mass") == pytest.approx(0.5)
    assert ll.calibration_error(z, y, bins=2, scheme="mass", norm="max") == pytest.approx(1.0)


def test_mass_bins_keep_equal_scores_together():
    z, y = np.zeros((10, 2)), np.repeat([0, 1], 5)
    assert ll.calibration_error(z, y, bins=5, scheme="mass") == 0


def test_conventions_are_bins_edges_and_the_sum_over_classes():
    z, y, p, occurs = sample("multiclass")
    edges = np.linspace(0, 1, 15)
    total = sum(NORMS["l1"](*binned(p[:, k], occurs[:, k], edges)) for k in range(4))
    assert ll.calibration_error(z, y, over="classwise", convention="kull2019") == pytest.approx(total, abs=1e-12)
    for convention in ("guo2017", "kull2019"):
        assert ll.calibration_error(z, y, convention=convention) == ll.calibration_error(z, y, bins=15)
    with pytest.raises(ValueError, match="Did you mean 'kull2019'"):
        ll.calibration_error(z, y, convention="kull2018")


@pytest.mark.parametrize("wrong", [{"scheme": "equal"}, {"norm": "l3"}, {"over": "all"}, {"bins": 0}])
def test_calibration_error_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match=f"calibration_error: {next(iter(wrong))} is"):
        ll.calibration_error([[0.0, 1.0]], [0], **wrong)


@every_task
def test_ranking_is_scikit_learns_per_column(task):
    z, y, _, occurs = sample(task)
    odds = z.reshape(len(z), -1)
    if task == "multiclass":
        odds = np.stack([z[:, k] - np.log(np.exp(np.delete(z, k, 1)).sum(1)) for k in range(4)], 1)
    columns = range(odds.shape[1])
    auc = np.mean([roc_auc_score(occurs[:, k], odds[:, k]) for k in columns])
    precision = np.mean([average_precision_score(occurs[:, k], odds[:, k]) for k in columns])
    assert ll.roc_auc(z, y) == pytest.approx(auc, abs=1e-12)
    assert ll.average_precision(z, y) == pytest.approx(precision, abs=1e-12)


def test_ranking_sees_beyond_probabilities_that_round_to_1():
    z = np.array([[50.0, 0.0], [60.0, 0.0], [70.0, 0.0], [80.0, 0.0]])
    assert ll.roc_auc(z, [1, 1, 0, 0]) == 1
    assert ll.roc_auc(z, [1, 0, 1, 0]) == 0.75


def test_ranking_leaves_out_classes_that_are_never_the_target():
    z, y, *_ = sample("multiclass")
    wider = np.concatenate([z, np.full((len(z), 1), -30.0)], 1)
    assert ll.roc_auc(wider, y) == pytest.approx(ll.roc_auc(z, y), abs=1e-9)
    assert np.isnan(ll.roc_auc([1.0, 2.0], [1, 1]))


def test_confusion_is_scikit_learns():
    z, y, *_ = sample("multiclass")
    w = np.random.default_rng(1).choice([0.0, 1.0, 0.5], len(z))
    assert np.array_equal(ll.confusion(z, y), confusion_matrix(y, z.argmax(1), labels=range(4)))
    np.testing.assert_allclose(
        ll.confusion(z, y, weight=w), confusion_matrix(y, z.argmax(1), labels=range(4), sample_weight=w)
    )
    z, y, *_ = sample("binary")
    assert np.array_equal(ll.confusion(z, y), confusion_matrix(y, z > 0))
    with pytest.raises(ValueError, match="labels are not exclusive"):
        ll.confusion(*sample("multilabel")[:2])


MEASURES = {
    "nll": ll.nll,
    "brier": ll.brier,
    "accuracy": ll.accuracy,
    "ece": ll.calibration_error,
    "ece_classwise": lambda z, y, weight=None: ll.calibration_error(z, y, over="classwise", weight=weight),
    "ece_mass": lambda z, y, weight=None: ll.calibration_error(z, y, bins=5, scheme="mass", weight=weight),
    "ece_l2": lambda z, y, weight=None: ll.calibration_error(z, y, bins=3, norm="l2", weight=weight),
    "roc_auc": ll.roc_auc,
    "average_precision": ll.average_precision,
}


@every_task
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_an_integer_weight_is_that_many_rows(task, measure):
    z, y, *_ = sample(task, n=80, seed=4)
    w = np.random.default_rng(5).integers(0, 4, 80)
    repeated = measure(np.repeat(z, w, 0), np.repeat(y, w, 0))
    assert measure(z, y, weight=w) == pytest.approx(repeated, rel=1e-12)
    constant = measure(z, y, weight=np.full(80, 3.0))
    plain = measure(z, y)
    for name in ("value", "low", "high", "n"):  # one unit of weight for all is no weighting
        assert getattr(constant, name) == pytest.approx(getattr(plain, name), rel=1e-9)


@every_task
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_row_of_weight_0_counts_for_nothing_and_a_nan_row_for_all(task, measure):
    z, y, *_ = sample(task, n=60)
    spoiled = z.copy()
    spoiled[7] = np.nan
    w = np.ones(60)
    w[7] = 0
    found, want = measure(spoiled, y, weight=w), measure(np.delete(z, 7, 0), np.delete(y, 7, 0), weight=np.ones(59))
    assert (found.value, found.low, found.high) == pytest.approx((want.value, want.low, want.high), rel=1e-12)
    if task == "multiclass":
        assert found.n == 59
    unknown = measure(spoiled, y, weight=np.ones(60))
    assert np.isnan(unknown)
    assert unknown.low <= unknown.high


@pytest.mark.parametrize("row", [[np.nan, 1.0], [-np.inf, -np.inf]])
def test_a_row_without_a_largest_class_is_never_a_hit(row):
    z, y = np.array([[2.0, 0.0], row, [0.0, 1.0]]), np.array([0, 1, 1])
    for measure in MEASURES.values():
        assert np.isnan(measure(z, y))
    with pytest.raises(DataError, match="predicts no class") as refused:
        ll.confusion(z, y)
    assert (refused.value.field, refused.value.rows) == ("logits", [1])
    assert ll.confusion(z, y, weight=[1, 0, 1]).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("gap", [40.0, 200.0, 700.0])
def test_the_loss_of_a_confident_right_answer_is_its_tail(gap):
    with mpmath.workdps(400):
        want = float(mpmath.log1p(2 * mpmath.exp(-mpmath.mpf(gap))))
        binary = float(mpmath.log1p(mpmath.exp(-mpmath.mpf(gap))))
    assert ll.nll([[gap, 0.0, 0.0]], [0]) == pytest.approx(want, rel=1e-15)
    assert ll.nll([gap], [1]) == pytest.approx(binary, rel=1e-15)
    assert ll.nll([[gap, 0.0, 0.0]], [1]) == pytest.approx(gap, rel=1e-15)


def test_an_impossible_target_costs_infinity_and_its_interval_says_nothing():
    found = ll.nll([[-np.inf, 0.0], [0.0, 1.0]], [0, 1])
    assert (found.value, found.low, found.high) == (np.inf, 0, np.inf)


def test_entries_of_infinity_share_the_row():
    z = np.array([[np.inf, 0.0, np.inf]])
    assert ll.nll(z, [2]) == pytest.approx(np.log(2), rel=1e-15)
    assert ll.nll(z, [1]) == np.inf
    assert ll.brier(z, [0]) == 0.5
