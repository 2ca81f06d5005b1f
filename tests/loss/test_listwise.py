"""Losses of whole lists: what the gains mean, orders, tails of dominated suffixes, padding, and the wrong calls."""

import inspect
import itertools

import mpmath
import numpy as np
import pytest

import reference
from arrays import JAX_JIT, TORCH, TORCH_32
from lastlayer.loss.cross_entropy import cross_entropy
from lastlayer.loss.listwise import list_mle, list_net
from lastlayer.loss.ranking import bpr

SCORES = np.array([[0.5, -1.0, 2.0, 0.25], [3.0, 3.0, -2.0, 0.0], [-40.0, 0.0, 1.0, 0.5]])
RELEVANCE = np.array([[1.0, 0, 2, 0], [0, 1, 1, 3], [2, 1, 0, 0]])
ORDER = np.array([[2, 0, 3, 1], [3, 0, 1, 2], [1, 0, 2, 3]])
GAINS = {
    "softmax": lambda r: np.exp(r) / np.exp(r).sum(-1, keepdims=True),
    "linear": lambda r: r / r.sum(-1, keepdims=True),
    "exponential": lambda r: (2**r - 1) / (2**r - 1).sum(-1, keepdims=True),
}


def exact_list_mle(scores, order):
    """With 500 digits, for terms that differ by exp(700)."""
    with mpmath.workdps(500):
        s = [mpmath.mpf(float(scores[i])) for i in order]
        terms = (mpmath.log(mpmath.fsum(mpmath.exp(v) for v in s[i:])) - s[i] for i in range(len(s)))
        return float(mpmath.fsum(terms))


def as_published(scores, order):
    """allRank's listMLE without its epsilon: cumulative sums of exp(s - max), and their logarithm less s."""
    s = scores[order] - scores.max()
    return (np.log(np.cumsum(np.exp(s)[::-1])[::-1]) - s).sum()


@pytest.mark.parametrize("gain", GAINS)
def test_list_net_is_cross_entropy_of_the_gains(gain, library):
    got = library.run(lambda s, r: list_net(s, r, gain=gain), SCORES, RELEVANCE)
    logp = np.array([[float(v) for v in reference.log_softmax(reference.exact(row))] for row in SCORES])
    want = -(GAINS[gain](RELEVANCE) * logp).sum(-1)
    np.testing.assert_allclose(got, want, rtol=8 * library.eps)
    np.testing.assert_allclose(got, library.run(cross_entropy, SCORES, GAINS[gain](RELEVANCE)), rtol=8 * library.eps)


def test_list_net_of_the_relevance_it_wants_learns_nothing(differentiable):
    slopes = differentiable.gradient(list_net, RELEVANCE + 7, RELEVANCE)
    np.testing.assert_allclose(slopes, np.zeros((3, 4)), rtol=0, atol=2 * differentiable.eps)


def test_list_mle(library):
    want = [exact_list_mle(*row) for row in zip(SCORES, ORDER, strict=True)]
    np.testing.assert_allclose(library.run(list_mle, SCORES, ORDER), want, rtol=4 * library.eps)


def test_the_likelihoods_of_all_orders_sum_to_1(library):
    orders = np.array(list(itertools.permutations(range(4))))
    for scores in SCORES:
        losses = library.run(list_mle, np.tile(scores, (24, 1)), orders)
        np.testing.assert_allclose(np.exp(-losses.astype(float)).sum(), 1, rtol=32 * library.eps)


@pytest.mark.parametrize("items", [2, 3, 5, 8, 9, 33])
def test_every_length_of_list(items, library):
    """Suffixes are joined in pieces of doubling length."""
    rng = np.random.default_rng(items)
    scores, order = rng.normal(0, 5, (3, items)), rng.permuted(np.tile(np.arange(items), (3, 1)), axis=1)
    scores = scores.astype(library.dtype).astype(float)
    want = [exact_list_mle(*row) for row in zip(scores, order, strict=True)]
    np.testing.assert_allclose(library.run(list_mle, scores, order), want, rtol=6 * library.eps)


def test_reordering_the_items_and_their_order_changes_nothing(library):
    turned = np.array([2, 0, 3, 1])
    got = library.run(list_mle, SCORES[:, turned], np.argsort(turned)[ORDER])
    np.testing.assert_array_equal(got, library.run(list_mle, SCORES, ORDER))


def test_tails_list_mle_with_a_dominated_suffix(differentiable):
    """In the right order each term is what follows: exp(-40) and less, which log(cumsum) - s loses altogether."""
    scores, order = np.array([[120.0, 80.0, 40.0, 0.0]]), np.array([[0, 1, 2, 3]])
    assert as_published(scores[0], order[0]) == 0
    want = 3 * np.exp(-40)
    np.testing.assert_allclose(differentiable.run(list_mle, scores, order), [want], rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(list_mle, scores, order)
    e = np.exp(-40)
    np.testing.assert_allclose(slopes, [[-e, -e * np.exp(-40), e * np.exp(-40), e]], rtol=0, atol=e * 4e-7)
    np.testing.assert_allclose(slopes[0, [0, 3]], [-e, e], rtol=4 * differentiable.eps)


def test_tails_list_mle_far_below_the_largest_score(differentiable):
    """Beneath a first item of 800 the others are exp(-800) of the maximum: cumulative sums hold 0 there."""
    scores, order = np.array([[800.0, 0.0, 1.0, -1.0]]), np.array([[0, 1, 2, 3]])
    with np.errstate(divide="ignore"):
        assert as_published(scores[0], order[0]) == -np.inf or not np.isfinite(as_published(scores[0], order[0]))
    want = exact_list_mle(scores[0], order[0])
    np.testing.assert_allclose(differentiable.run(list_mle, scores, order), [want], rtol=4 * differentiable.eps)
    p = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    q = 1 / (1 + np.exp(2.0))
    slopes = differentiable.gradient(list_mle, scores, order)
    np.testing.assert_allclose(slopes, [[0, p[0] - 1, p[1] - q, p[2] + q]], rtol=8 * differentiable.eps)


@pytest.mark.parametrize("apart", [1.0, 40.0, 350.0, 700.0])
def test_list_mle_of_two_is_bpr(apart, differentiable):
    for scores in ([[apart, 0.0]], [[-apart, 0.0]]):
        got = differentiable.run(list_mle, scores, [[0, 1]])
        want = differentiable.run(bpr, [scores[0][0]], [scores[0][1]])
        np.testing.assert_allclose(got, want, rtol=4 * differentiable.eps)
        slopes = differentiable.gradient(list_mle, scores, [[0, 1]])
        want = differentiable.gradient(bpr, [scores[0][0]], [scores[0][1]])
        np.testing.assert_allclose(slopes, [[want[0], -want[0]]], rtol=4 * differentiable.eps)


def test_tails_list_mle_keeps_what_rounding_takes_from_the_differences(differentiable):
    rng = np.random.default_rng(0)
    scores = np.stack([rng.normal(mean, 1, 100) for mean in (60, 0, 0)], axis=-1)
    scores, order = scores.astype(differentiable.dtype).astype(float), np.tile([0, 2, 1], (100, 1))
    two = differentiable.run(list_mle, scores[:, :2], order[:, :1] + np.arange(2))
    want = [exact_list_mle(row, [0, 1]) for row in scores]
    np.testing.assert_allclose(two, want, rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(list_mle, scores, order)[:, 0]
    want = [float(reference.softmax(reference.exact(row))[0] - 1) for row in scores]
    np.testing.assert_allclose(slopes, want, rtol=5 * differentiable.eps)


def test_items_at_infinity(differentiable):
    inf = np.inf
    scores = np.array([[inf, inf, 0.0], [0.0, inf, 1.0], [-inf, 0.0, 1.0], [1.0, 0.0, -inf], [-inf, -inf, -inf]])
    order = np.tile([0, 1, 2], (5, 1))
    want = [np.log(2), inf, inf, np.log1p(np.exp(-1)), np.nan]
    np.testing.assert_allclose(differentiable.run(list_mle, scores, order), want, rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(list_mle, scores, order)
    third = 1 / (1 + np.e)
    np.testing.assert_allclose(slopes[0], [-0.5, 0.5, 0], atol=1e-7)
    np.testing.assert_allclose(slopes[1], [-1, 1, 0], atol=1e-7)
    np.testing.assert_allclose(slopes[2], [-1, third - (1 - third), 2 * (1 - third)], atol=1e-6)
    np.testing.assert_allclose(slopes[3], [-third, third, 0], rtol=4 * differentiable.eps)
    np.testing.assert_array_equal(slopes[4], 0)


def of(function):
    """The function and what it takes beside scores."""
    return function, RELEVANCE if function is list_net else ORDER


@pytest.mark.parametrize("function", [list_net, list_mle])
def test_padding_may_hold_anything(function, differentiable):
    mask = np.array([[True, True, False, True]] * 3)
    spoilt = np.where(mask, SCORES, np.array([[np.nan], [np.inf], [-np.inf]]))
    given = np.where(mask, RELEVANCE, -100) if function is list_net else ORDER
    kept = SCORES[:, [0, 1, 3]]
    short = RELEVANCE[:, [0, 1, 3]] if function is list_net else np.array([[0, 2, 1], [2, 0, 1], [1, 0, 2]])

    def loss(s, r):
        return function(s, r, mask=mask)

    without = differentiable.run(function, kept, short)
    np.testing.assert_allclose(differentiable.run(loss, spoilt, given), without, rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(loss, spoilt, given)
    np.testing.assert_array_equal(slopes[:, 2], 0)
    want = differentiable.gradient(function, kept, short)
    np.testing.assert_allclose(slopes[:, [0, 1, 3]], want, rtol=0, atol=4 * differentiable.eps)


@pytest.mark.parametrize("function", [list_net, list_mle])
def test_lists_without_items_and_those_that_do_not_count(function, differentiable):
    _, given = of(function)
    scores = np.where([[True], [False], [True]], SCORES, np.nan)
    spoilt = np.where([[True], [False], [True]], given, -100)
    mask, valid = np.array([[False] * 4, [True] * 4, [True] * 4]), np.array([True, False, True])
    for empty, value in (("zero", 0), ("nan", np.nan)):

        def loss(s, r, empty=empty):
            return function(s, r, mask=mask, valid=valid, empty=empty)

        got = differentiable.run(loss, scores, spoilt)
        np.testing.assert_array_equal(got[:2], [value, 0])
        np.testing.assert_allclose(got[2:], differentiable.run(function, SCORES[2:], given[2:]), rtol=1e-6)
        slopes = differentiable.gradient(loss, scores, spoilt)
        np.testing.assert_array_equal(slopes[:2], 0)
        assert slopes[2].any()


def test_a_list_without_gain_and_one_item_alone(differentiable):
    for empty, value in (("zero", 0), ("nan", np.nan)):

        def loss(s, r, empty=empty):
            return list_net(s, r, gain="linear", empty=empty)

        np.testing.assert_array_equal(differentiable.run(loss, SCORES[:1], np.zeros((1, 4))), [value])
        np.testing.assert_array_equal(differentiable.gradient(loss, SCORES[:1], np.zeros((1, 4))), np.zeros((1, 4)))
    np.testing.assert_array_equal(differentiable.run(list_net, [[5.0]], [[1.0]]), [0])
    np.testing.assert_array_equal(differentiable.run(list_mle, [[5.0]], [[0]]), [0])
    np.testing.assert_array_equal(differentiable.gradient(list_mle, [[5.0]], [[0]]), [[0]])
    assert np.isnan(differentiable.run(list_mle, [[np.nan]], [[0]]))


def test_absent_items_have_no_share_under_softmax_and_cost_infinity_under_gains(library):
    scores = [[1.0, -np.inf, 0.0]]
    got = library.run(list_net, scores, [[2.0, 1.0, 0.0]])
    np.testing.assert_allclose(got, library.run(list_net, [[1.0, 0.0]], [[2.0, 0.0]]), rtol=4 * library.eps)
    for gain in ("linear", "exponential"):
        assert library.run(lambda s, r, gain=gain: list_net(s, r, gain=gain), scores, [[2.0, 1.0, 0.0]]) == np.inf


def test_where_nobody_may_look_a_wrong_order_makes_its_list_nan():
    JAX_JIT.require()
    got = JAX_JIT.run(list_mle, SCORES, np.array([[0, 1, 2, 2], [0, 1, 2, 4], [3, 1, 2, 0]]))
    np.testing.assert_array_equal(np.isnan(got), [True, True, False])


def test_second_derivatives():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(SCORES[:2] / 2).requires_grad_()
    for loss in (lambda z: list_net(z, RELEVANCE[:2]), lambda z: list_mle(z, ORDER[:2])):
        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)


def test_half_precision():
    TORCH_32.require()
    import torch

    for function in (list_net, list_mle):
        _, given = of(function)
        half = function(torch.tensor(SCORES, dtype=torch.bfloat16), torch.tensor(given))
        assert half.dtype == torch.float32
        wide = TORCH_32.run(function, torch.tensor(SCORES, dtype=torch.bfloat16).double().numpy(), given)
        np.testing.assert_array_equal(half.numpy(), wide)


@pytest.mark.parametrize(
    ("function", "given", "settings", "sentence"),
    [
        (list_net, -RELEVANCE, {}, "list_net: relevance is finite and not below 0; one is -1"),
        (list_net, RELEVANCE[:, :2], {}, r"one relevance per score, \(3, 4\); relevance is \(3, 2\)"),
        (list_net, RELEVANCE, {"gain": "linaer"}, "Did you mean 'linear'"),
        (list_net, RELEVANCE, {"empty": "nil"}, "empty is one of 'zero', 'nan'"),
        (list_net, RELEVANCE, {"mask": np.ones(3, bool)}, r"one mask per score, \(3, 4\); mask is \(3,\)"),
        (list_mle, ORDER[:, ::2], {}, r"one order per score, \(3, 4\); order is \(3, 2\)"),
        (list_mle, ORDER * 0, {}, "order names each of the 4 items of a list once, from best to worst"),
        (list_mle, ORDER + 1, {}, "order names each of the 4 items"),
        (list_mle, RELEVANCE, {}, r"relevance becomes one by argsort\(-relevance, stable=True\). float64 came"),
        (list_mle, ORDER, {"mask": np.ones((3, 3), bool)}, r"mask is \(3, 3\)"),
        (list_mle, ORDER, {"valid": np.ones(4, bool)}, r"one valid per list, \(3,\); valid is \(4,\)"),
        (list_mle, ORDER, {"empty": 0}, "empty is one of"),
    ],
)
def test_wrong_calls(function, given, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(function)(SCORES, given, **settings)  # past the shape hints
