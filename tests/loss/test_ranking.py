"""Losses of pairs: what rounding must not take from them, WARP's ranks, lists with padding, and the wrong calls."""

import inspect
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from arrays import JAX_JIT, TORCH
from lastlayer.loss.ranking import bpr, lambda_rank, pair_hinge, rank_net, warp

PAIRS = np.array([[0.3, -0.4], [700.0, 0.0], [-700.0, 0.0], [40.1, 0.3], [0.3, 40.1], [1e-3, 0.7], [700.1, 699.9]])
SCORES = np.array([[0.5, -1.0, 2.0, 0.25], [3.0, 3.0, -2.0, 0.0], [-40.0, 0.0, 1.0, 0.5]])
RELEVANCE = np.array([[1, 0, 2, 0], [0, 1, 1, 3], [2, 1, 0, 0]])


@pytest.fixture(autouse=True, scope="module")
def many_digits():
    """Differences of scores are exact in the references."""
    with mpmath.workdps(60):
        yield


def softplus(v):
    """With log1p, for exp(-700) is below the last digit of 1."""
    return mpmath.log1p(mpmath.exp(v))


def published_bpr(difference, gamma=1e-10):
    """RecBole's BPRLoss."""
    return -np.log(gamma + 1 / (1 + np.exp(-difference)))


def test_bpr_is_exact_for_scores_up_to_700(differentiable):
    held = PAIRS.astype(differentiable.dtype).astype(float)
    got = differentiable.run(bpr, held[:, 0], held[:, 1])
    slope = differentiable.gradient(bpr, held[:, 0], held[:, 1])
    gaps = [mpmath.mpf(n) - mpmath.mpf(p) for p, n in held]
    tiny = float(np.finfo(differentiable.dtype).tiny)
    np.testing.assert_allclose(got, [float(softplus(g)) for g in gaps], rtol=4 * differentiable.eps, atol=tiny)
    want = [float(-1 / (1 + mpmath.exp(-g))) for g in gaps]
    np.testing.assert_allclose(slope, want, rtol=4 * differentiable.eps, atol=tiny)


def test_tails_bpr_of_recbole_has_no_slope_at_a_difference_of_minus_40(differentiable):
    """Its gamma of 1e-10 is all that is left of sigmoid(-40); the pair that is most wrong teaches nothing."""
    right = 1 / (1 + np.exp(40.0))
    assert right * (1 - right) / (1e-10 + right) < 1e-7  # the slope as published
    assert published_bpr(-700.0) - published_bpr(-40.0) < 1e-7
    assert published_bpr(-700.0) < 23.1
    np.testing.assert_allclose(differentiable.run(bpr, [-40.0, -700.0], [0.0, 0.0]), [40, 700], rtol=1e-7)
    slope = differentiable.gradient(bpr, [-40.0, -700.0], [0.0, 0.0])
    np.testing.assert_allclose(slope, [-1, -1], rtol=2 * differentiable.eps)


def test_tails_bpr_keeps_what_rounding_takes_from_the_difference(library):
    """exp of a rounded difference of 60 is wrong by tens of units in the last place."""
    rng = np.random.default_rng(0)
    positive, negative = (rng.normal(mean, 1, 200).astype(library.dtype).astype(float) for mean in (60, 0))
    want = np.array([float(softplus(mpmath.mpf(n) - mpmath.mpf(p))) for p, n in zip(positive, negative, strict=True)])
    difference = (positive.astype(library.dtype) - negative.astype(library.dtype)).astype(float)
    assert np.abs(np.exp(-difference) / want - 1).max() > 8 * library.eps
    np.testing.assert_allclose(library.run(bpr, positive, negative), want, rtol=3 * library.eps)


def test_pairs_broadcast(library):
    got = library.run(bpr, SCORES[:, :1], SCORES[:, 1:])
    np.testing.assert_allclose(got, np.log1p(np.exp(SCORES[:, 1:] - SCORES[:, :1])), rtol=8 * library.eps)
    got = library.run(pair_hinge, SCORES[:, :1], SCORES[:, 1:])
    np.testing.assert_allclose(got, np.maximum(0, 1 + SCORES[:, 1:] - SCORES[:, :1]), rtol=4 * library.eps)


@pytest.mark.parametrize(
    ("positive", "negative", "cost", "slope", "hinge"),
    [
        (-np.inf, 0.0, np.inf, -1, np.inf),
        (0.0, -np.inf, 0, 0, 0),
        (np.inf, 0.0, 0, 0, 0),
        (0.0, np.inf, np.inf, -1, np.inf),
        (np.inf, np.inf, np.log(2), -0.5, 1),
        (-np.inf, -np.inf, np.nan, 0, np.nan),
        (np.nan, -np.inf, np.nan, np.nan, np.nan),
    ],
)
def test_pairs_at_infinity(positive, negative, cost, slope, hinge, differentiable):
    np.testing.assert_allclose(differentiable.run(bpr, [positive], [negative]), [cost], rtol=1e-6)
    np.testing.assert_allclose(differentiable.gradient(bpr, [positive], [negative]), [slope], rtol=1e-6)
    np.testing.assert_array_equal(differentiable.run(pair_hinge, [positive], [negative]), [hinge])


def test_a_hinge_near_its_corner_keeps_every_digit(library):
    """The positive leads by the margin as well as it can: what is left is a rounding error, and known exactly."""
    negative = -abs(np.random.default_rng(0).normal(0, 0.2, 100)).astype(library.dtype)
    positive = (negative + 1).astype(library.dtype)
    left = [float(1 - Fraction(float(p)) + Fraction(float(n))) for p, n in zip(positive, negative, strict=True)]
    assert np.count_nonzero(np.maximum(0, left)) > 20
    got = library.run(pair_hinge, positive.astype(float), negative.astype(float))
    np.testing.assert_array_equal(got, np.maximum(0, left))


@pytest.mark.parametrize("function", [bpr, pair_hinge])
def test_pairs_that_do_not_count(function, differentiable):
    valid, negative = np.array([False, True]), [0.0, 0.0]

    def loss(positive, against):
        return function(positive, against, valid=valid)

    for held in (np.nan, -np.inf):
        assert differentiable.run(loss, [held, -1.0], negative)[0] == 0
        np.testing.assert_array_equal(differentiable.gradient(loss, [held, -1.0], negative)[0], 0)
        assert differentiable.gradient(loss, [held, -1.0], negative)[1] < 0


NEGATIVES = np.array([[-3.0, 0.5, -0.5, 1.5], [-3.0, -3.0, -4.0, -5.0], [5.0, -9.0, -9.0, 2.0]])


@pytest.mark.parametrize(
    ("settings", "ranks", "costs"),
    [
        ({}, [3, 1, 2], [(1.5 + 0.5 + 2.5) / 3, 0, (6 + 3) / 2]),
        ({"items": 101}, [75, 1, 50], [1.5, 0, 4.5]),
        ({"items": 101, "rank": "tries"}, [50, 1, 100], [1.5, 0, 6]),
        ({"rank": "tries"}, [2, 1, 4], [1.5, 0, 6]),
        ({"margin": 2.0, "items": 5}, [3, 1, 2], [2.5, 0, 5.5]),
    ],
)
@pytest.mark.parametrize("weighting", ["harmonic", "log"])
def test_warp(settings, ranks, costs, weighting, library):
    """The positive has the score 0: 0.5, -0.5 and 1.5 violate the margin of 1 in the first row."""
    got = library.run(lambda s, n: warp(s, n, weighting=weighting, **settings), np.zeros(3), NEGATIVES)
    weight = [np.log(r) if weighting == "log" else sum(1 / i for i in range(1, r + 1)) for r in ranks]
    np.testing.assert_allclose(got, np.array(weight) * costs, rtol=4 * library.eps)


def test_the_weight_of_warp_is_a_constant_of_the_differentiation(differentiable):
    got = differentiable.gradient(lambda n, s: warp(s, n), NEGATIVES, np.zeros(3))
    third, half = (1 + 1 / 2 + 1 / 3) / 3, (1 + 1 / 2) / 2
    np.testing.assert_allclose(got, [[0, third, third, third], [0] * 4, [half, 0, 0, half]], rtol=1e-6)


def test_the_harmonic_number_of_a_long_catalogue(library):
    for items in (16, 17, 40, 100_001):
        got = library.run(lambda s, n, items=items: warp(s, n, items=items + 1), [0.0], [[0.0]])
        np.testing.assert_allclose(got, [float(mpmath.harmonic(items))], rtol=4 * library.eps)


def test_absent_negatives_are_neither_tried_nor_counted(library):
    negatives = np.array([[-np.inf, -3.0, 0.5, -np.inf]])
    np.testing.assert_allclose(library.run(warp, [0.0], negatives), [1.5])
    of_101 = library.run(lambda s, n: warp(s, n, items=101, weighting="log"), [0.0], negatives)
    np.testing.assert_allclose(of_101, [1.5 * np.log(50)], rtol=1e-6)
    tried = library.run(lambda s, n: warp(s, n, items=101, rank="tries", weighting="log"), [0.0], negatives)
    np.testing.assert_allclose(tried, of_101, rtol=1e-6)


def test_warp_of_rows_that_are_empty_hold_nan_or_do_not_count(differentiable):
    negatives, positive = np.array([[-np.inf], [np.nan], [np.nan], [1.0]]), np.array([-np.inf, 0.0, 0.0, 0.0])
    valid = np.array([True, True, False, True])
    for rank in ("count", "tries"):

        def loss(n, s, rank=rank):
            return warp(s, n, rank=rank, valid=valid)

        np.testing.assert_array_equal(differentiable.run(loss, negatives, positive), [np.nan, np.nan, 0, 2])
        slopes = differentiable.gradient(loss, negatives, positive)
        np.testing.assert_array_equal(slopes[[0, 2, 3]], [[0], [0], [1]])


def pairs_of(relevance):
    return [(i, j) for i, r in enumerate(relevance) for j, s in enumerate(relevance) if r > s]


def exact_rank_net(scores, relevance):
    pairs = pairs_of(relevance)
    return mpmath.fsum(softplus(mpmath.mpf(scores[j]) - mpmath.mpf(scores[i])) for i, j in pairs) / len(pairs)


def exact_lambda_rank(scores, relevance, k, gain):
    gains = [2.0**r - 1 if gain == "exponential" else float(r) for r in relevance]
    ranks = np.argsort(np.argsort(-scores, kind="stable")) + 1

    def ndcg(ranks):
        discounts = [1 / mpmath.log(1 + int(r), 2) if r <= k else 0 for r in ranks]
        best = [1 / mpmath.log(2 + place, 2) if place < k else 0 for place in range(len(gains))]
        ideal = mpmath.fsum(g * d for g, d in zip(sorted(gains, reverse=True), best, strict=True))
        return mpmath.fsum(g * d for g, d in zip(gains, discounts, strict=True)) / ideal

    cost = mpmath.mpf(0)
    for i, j in pairs_of(relevance):
        swapped = ranks.copy()
        swapped[[i, j]] = ranks[[j, i]]
        cost += abs(ndcg(swapped) - ndcg(ranks)) * softplus(mpmath.mpf(scores[j]) - mpmath.mpf(scores[i]))
    return cost


def test_rank_net(library):
    want = [float(exact_rank_net(*row)) for row in zip(SCORES, RELEVANCE, strict=True)]
    np.testing.assert_allclose(library.run(rank_net, SCORES, RELEVANCE), want, rtol=4 * library.eps)


@pytest.mark.parametrize("gain", ["exponential", "linear"])
@pytest.mark.parametrize("k", [None, 1, 2])
def test_lambda_rank_weighs_by_what_a_swap_does_to_ndcg(k, gain, library):
    got = library.run(lambda s, r: lambda_rank(s, r, k=k, gain=gain), SCORES, RELEVANCE)
    want = [float(exact_lambda_rank(*row, k or 4, gain)) for row in zip(SCORES, RELEVANCE, strict=True)]
    np.testing.assert_allclose(got, want, rtol=6 * library.eps)


def test_tails_lambda_rank_tells_neighbours_far_down_the_list_apart(library):
    """1 / log2(1001) - 1 / log2(1002) as written loses four digits."""
    scores, relevance = -np.arange(1001.0), np.zeros(1001)
    relevance[1000] = 1
    scores[:999] = np.inf
    relevance[:999] = 1
    got = library.run(lambda s, r: lambda_rank(s, r, gain="linear"), [scores], [relevance])[0]
    apart = 1 / mpmath.log(1001, 2) - 1 / mpmath.log(1002, 2)
    ideal = mpmath.fsum(1 / mpmath.log(1 + place, 2) for place in range(1, 1001))
    np.testing.assert_allclose(got, float(apart * softplus(1) / ideal), rtol=16 * library.eps)


@pytest.mark.parametrize("function", [rank_net, lambda_rank])
def test_padding_may_hold_anything(function, differentiable):
    mask = np.array([[True, True, False, True]] * 3)
    spoilt = np.where(mask, SCORES, [np.nan, np.inf, np.nan, -np.inf])
    spoilt[0, 2], junk = np.inf, np.where(mask, RELEVANCE, -100)

    def loss(s, r):
        return function(s, r, mask=mask)

    without = differentiable.run(function, SCORES[:, [0, 1, 3]], RELEVANCE[:, [0, 1, 3]])
    np.testing.assert_allclose(differentiable.run(loss, spoilt, junk), without, rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(loss, spoilt, junk)
    np.testing.assert_array_equal(slopes[:, 2], 0)
    short = differentiable.gradient(function, SCORES[:, [0, 1, 3]], RELEVANCE[:, [0, 1, 3]])
    np.testing.assert_allclose(slopes[:, [0, 1, 3]], short, rtol=0, atol=8 * differentiable.eps)


@pytest.mark.parametrize("function", [rank_net, lambda_rank])
def test_lists_with_nothing_to_order(function, differentiable):
    scores, relevance = np.array([[1.0, 2.0], [1.0, 2.0], [-np.inf, -np.inf]]), np.array([[0, 0], [3, 1], [1, 0]])
    mask = np.array([[True, True], [False, False], [True, True]])
    for empty, value in (("zero", 0), ("nan", np.nan)):

        def loss(s, r, empty=empty):
            return function(s, r, empty=empty, mask=mask)

        np.testing.assert_array_equal(differentiable.run(loss, scores, relevance), [value, value, np.nan])
        np.testing.assert_array_equal(differentiable.gradient(loss, scores, relevance), np.zeros((3, 2)))
    assert differentiable.run(function, [[5.0]], [[0]]) == 0


@pytest.mark.parametrize("function", [rank_net, lambda_rank])
def test_lists_that_do_not_count(function, differentiable):
    scores, relevance = np.array([[np.nan, 1.0], [1.0, 2.0]]), np.array([[-100, 0], [1, 0]])
    valid = np.array([False, True])

    def loss(s, r):
        return function(s, r, valid=valid, empty="nan")

    assert differentiable.run(loss, scores, relevance)[0] == 0
    slopes = differentiable.gradient(loss, scores, relevance)
    np.testing.assert_array_equal(slopes[0], 0)
    assert (slopes[1] != 0).all()


@pytest.mark.parametrize("function", [rank_net, lambda_rank])
def test_a_relevant_item_of_minus_infinity_costs_infinity(function, library):
    scores = [[-np.inf, 1.0, 0.0], [1.0, -np.inf, 0.0]]
    got = library.run(function, scores, [[1, 0, 0], [1, 0, 0]])
    assert got[0] == np.inf
    alone = library.run(function, [[1.0, 0.0]], [[1, 0]])
    np.testing.assert_allclose(got[1], alone[0], rtol=4 * library.eps)  # as worse one it is absent


def test_where_nobody_may_look_wrong_relevance_makes_its_list_nan():
    JAX_JIT.require()
    got = JAX_JIT.run(rank_net, SCORES[:2], np.array([[-1.0, 0, 1, 0], [0, 1, 0, 0]]))
    assert np.isnan(got[0])
    assert np.isfinite(got[1])


def test_second_derivatives():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(SCORES[:2] / 2 + np.arange(4) / 64).requires_grad_()
    for loss in (
        lambda z: bpr(z[0], z[1]),
        lambda z: rank_net(z, RELEVANCE[:2]),
        lambda z: lambda_rank(z, RELEVANCE[:2]),
    ):
        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)


LIST = {"scores": SCORES, "relevance": RELEVANCE}
ONE = {"positive": np.zeros(2), "negatives": np.zeros((2, 3))}


@pytest.mark.parametrize(
    ("function", "settings", "sentence"),
    [
        (bpr, {"positive": np.zeros(2), "negative": np.zeros(3)}, r"bpr: .*broadcast.*\(2,\) and \(3,\)"),
        (bpr, {"positive": [0.0], "negative": [0.0], "valid": [True, False]}, r"one valid per pair, \(1,\)"),
        (pair_hinge, {"positive": [0.0], "negative": [0.0], "margin": -1.0}, "pair_hinge: margin is a finite dist"),
        (warp, {**ONE, "margin": np.inf}, "warp: margin is a finite distance, not below 0; inf"),
        (warp, {**ONE, "items": 3}, "at least its 3 negatives; 3 came"),
        (warp, {**ONE, "items": 0}, "items is the size of the catalogue"),
        (warp, {**ONE, "rank": "trees"}, "Did you mean 'tries'"),
        (warp, {**ONE, "weighting": "ln"}, "weighting is one of 'harmonic', 'log'"),
        (warp, {**ONE, "negatives": np.zeros((2, 0))}, r"one negative at least for each positive; .*\(2, 0\)"),
        (warp, {**ONE, "positive": np.zeros(3)}, r"one positive per row of negatives, \(2,\); positive is \(3,\)"),
        (rank_net, {**LIST, "relevance": -RELEVANCE}, "rank_net: relevance is finite and not below 0; one is -1"),
        (rank_net, {**LIST, "relevance": RELEVANCE * np.nan}, "relevance is finite"),
        (rank_net, {**LIST, "relevance": RELEVANCE[0]}, r"one relevance per score, \(3, 4\); relevance is \(4,\)"),
        (rank_net, {**LIST, "mask": np.ones(4, bool)}, r"one mask per score, \(3, 4\); mask is \(4,\)"),
        (rank_net, {**LIST, "valid": np.ones(4, bool)}, r"one valid per list, \(3,\); valid is \(4,\)"),
        (rank_net, {**LIST, "empty": "zeros"}, "Did you mean 'zero'"),
        (lambda_rank, {**LIST, "k": 0}, "lambda_rank: k is a number of places, 1 at least, not 0"),
        (lambda_rank, {**LIST, "gain": "exp"}, "gain is one of 'exponential', 'linear'"),
    ],
)
def test_wrong_calls(function, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(function)(**settings)  # past the shape hints


@pytest.mark.parametrize("function", [rank_net, lambda_rank])
def test_half_precision(function):
    half = function(SCORES.astype(np.float16), RELEVANCE)
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, function(SCORES.astype(np.float32), RELEVANCE))
