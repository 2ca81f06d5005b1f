"""Losses of sampled negatives: the sign of logQ, accidental hits, gBCE's tail, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import reference
from arrays import JAX_JIT, TORCH
from lastlayer.kernels import formulas
from lastlayer.loss.cross_entropy import cross_entropy
from lastlayer.loss.sampled import gbce, in_batch, sampled_softmax

POSITIVE = np.array([0.5, 40.25, -3.0])
NEGATIVES = np.array([[1.0, -0.5, 0.25], [0.0, 1.5, -2.0], [3.0, 2.0, 1.0]])
LOG_Q = -np.array([[0.5, 2.0, 1.25], [4.0, 0.25, 3.0], [1.0, 2.0, 8.0]])
LOG_Q_POSITIVE = -np.array([1.0, 0.5, 2.0])
SIMILARITY = np.array([[2.0, 0.5, -1.0, 0.25], [1.0, 30.0, 0.5, -2.0], [0.0, 1.5, -0.5, 1.0]])
COLUMN_LOG_Q = -np.array([0.5, 1.5, 2.0, 3.25])


def exact_softmax(positive, others):
    s = reference.exact([positive])[0]
    return float(mpmath.log(mpmath.fsum(mpmath.exp(v - s) for v in [s, *reference.exact(others)])))


def test_logq_is_taken_off(library):
    def loss(s, n):
        return sampled_softmax(s, n, log_q_positive=LOG_Q_POSITIVE, log_q_negatives=LOG_Q)

    want = [exact_softmax(*row) for row in zip(POSITIVE - LOG_Q_POSITIVE, NEGATIVES - LOG_Q, strict=True)]
    np.testing.assert_allclose(library.run(loss, POSITIVE, NEGATIVES), want, rtol=4 * library.eps)


def test_tails_keep_what_taking_logq_off_rounds(library):
    """Of a sure row the loss is exp(-41): the rounding of two differences would be 20 units of it."""
    scores, log_q = (np.array(v).astype(library.dtype) for v in ([40.1, 0.3, -0.2], [-0.7, -1.3, -2.9]))
    s, q = reference.exact(scores), reference.exact(log_q)
    want = float(mpmath.log1p(mpmath.fsum(mpmath.exp((s[j] - q[j]) - (s[0] - q[0])) for j in (1, 2))))

    def sampled(s, n):
        return sampled_softmax(s, n, log_q_positive=library.of(log_q[:1]), log_q_negatives=library.of(log_q[None, 1:]))

    got = library.run(sampled, scores[:1], scores[None, 1:])
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)
    got = library.run(lambda x: in_batch(x, log_q=library.of(log_q)), scores[None])
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)


def test_without_logq_it_is_cross_entropy(library):
    whole = np.concatenate([POSITIVE[:, None], NEGATIVES], axis=-1)
    got = library.run(sampled_softmax, POSITIVE, NEGATIVES)
    with formulas():
        np.testing.assert_array_equal(got, library.run(cross_entropy, whole, np.zeros(3, int)))


def test_a_positive_that_is_there_for_certain_leaves_the_negatives_their_expected_number(library):
    got = library.run(lambda s, n: sampled_softmax(s, n, log_q_negatives=LOG_Q), POSITIVE, NEGATIVES)
    want = [exact_softmax(*row) for row in zip(POSITIVE, NEGATIVES - LOG_Q - np.log(3), strict=True)]
    np.testing.assert_allclose(got, want, rtol=16 * library.eps)


def test_rows_may_share_their_draws(library):
    got = library.run(lambda s, n: sampled_softmax(s, n, log_q_negatives=LOG_Q[0]), POSITIVE, NEGATIVES)
    each = library.run(lambda s, n: sampled_softmax(s, n, log_q_negatives=LOG_Q[[0, 0, 0]]), POSITIVE, NEGATIVES)
    np.testing.assert_array_equal(got, each)


def test_an_accidental_hit_is_left_out(differentiable):
    hits = np.array([[True, False, False], [False, False, False], [True, True, True]])

    def loss(n, s):
        return sampled_softmax(s, n, accidental=hits)

    got = differentiable.run(loss, NEGATIVES, POSITIVE)
    want = [exact_softmax(s, n[~h]) for s, n, h in zip(POSITIVE, NEGATIVES, hits, strict=True)]
    np.testing.assert_allclose(got, want, rtol=4 * differentiable.eps)
    np.testing.assert_array_equal(differentiable.gradient(loss, NEGATIVES, POSITIVE)[hits], 0)


def test_in_batch(library):
    got = library.run(lambda z: in_batch(z, log_q=COLUMN_LOG_Q, temperature=0.5), SIMILARITY)
    corrected = SIMILARITY / 0.5 - COLUMN_LOG_Q
    want = [exact_softmax(row[i], np.delete(row, i)) for i, row in enumerate(corrected)]
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)


def test_in_batch_without_logq_is_cross_entropy_of_the_diagonal(library):
    for temperature in (1.0, 0.05, np.array([[0.5], [1.0], [2.0]])):
        got = library.run(lambda z, t=temperature: in_batch(z, temperature=t), SIMILARITY)
        with formulas():
            want = library.run(lambda z, t=temperature: cross_entropy(z, np.arange(3), temperature=t), SIMILARITY)
        np.testing.assert_array_equal(got, want)


def test_in_batch_of_several_batches(library):
    def loss(z):
        return in_batch(z, log_q=COLUMN_LOG_Q, temperature=2.0, ids=np.array([3, 4, 3, 5]))

    both = library.run(loss, np.stack([SIMILARITY, SIMILARITY[::-1]]))
    np.testing.assert_array_equal(both[0], library.run(loss, SIMILARITY))
    np.testing.assert_array_equal(both[1], library.run(loss, SIMILARITY[::-1]))


def test_tails_the_same_item_twice_in_a_batch_is_no_negative_of_itself(differentiable):
    """sentence-transformers#3189: rows 0 and 2 hold item 7, and each would push the other's copy away."""
    ids = np.array([7, 8, 7, 9])

    def loss(z):
        return in_batch(z, ids=ids)

    want = [exact_softmax(2.0, [0.5, 0.25]), exact_softmax(30.0, [1, 0.5, -2]), exact_softmax(-0.5, [1.5, 1.0])]
    np.testing.assert_allclose(differentiable.run(loss, SIMILARITY), want, rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(loss, SIMILARITY)
    np.testing.assert_array_equal([slopes[0, 2], slopes[2, 0]], [0, 0])
    pushed = differentiable.gradient(in_batch, SIMILARITY)
    assert (np.array([pushed[0, 2], pushed[2, 0]]) > 0.01).all()


CATALOGUE = np.random.default_rng(7).normal(0, 1.5, 12)
Q = np.random.default_rng(8).dirichlet(np.full(12, 2.0))
OWN = 3


def mean_gradient(sign, draws=512, repeats=400, certain=False):
    """Of sampled_softmax with regard to the scores of the catalogue, for negatives drawn from Q; and its error.

    The positive is there for certain and its accidental hits are left out, or it counts by logQ as the draws do.
    """
    drawn = np.random.default_rng(1).choice(12, (repeats, draws), p=Q)

    def loss(n, s):
        log_q = np.log(Q)[drawn]
        own = np.full(repeats, np.log(Q[OWN]))
        if sign > 0:  # as if the logarithms were added: s + log Q = (s + 2 log Q) - log Q
            n, s = n + TORCH.of(2 * log_q), s + 2 * np.log(Q[OWN])
        return sampled_softmax(
            s,
            n,
            log_q_positive=None if certain else own,
            log_q_negatives=log_q,
            accidental=drawn == OWN if certain else None,
        )

    s = np.full(repeats, CATALOGUE[OWN])
    slopes = TORCH.gradient(loss, CATALOGUE[drawn], s)
    of_items = np.stack([np.where(drawn == item, slopes, 0).sum(-1) for item in range(12)], axis=-1)
    of_items[:, OWN] -= of_items.sum(-1)  # the slopes of a row sum to 0
    return of_items.mean(0), of_items.std(0) / np.sqrt(repeats)


@pytest.mark.parametrize("certain", [False, True])
def test_the_gradient_with_logq_tends_to_that_of_the_full_softmax(certain):
    """Within four standard errors and a bias of a few over the number of draws."""
    TORCH.require()
    want = np.exp(CATALOGUE) / np.exp(CATALOGUE).sum() - (np.arange(12) == OWN)
    got, error = mean_gradient(-1, certain=certain)
    assert error.max() < 0.003
    assert (np.abs(got - want) < 4 * error + 3 / 512).all()


def test_tails_the_sign_of_logq():
    """tensorflow/recommenders#219, #278: added instead of taken off, popular items are pushed down twice."""
    TORCH.require()
    want = np.exp(CATALOGUE) / np.exp(CATALOGUE).sum() - (np.arange(12) == OWN)
    right, _ = mean_gradient(-1, certain=True)
    added, error = mean_gradient(+1, certain=True)
    assert np.abs(right - want).max() < 0.01
    assert np.abs(added - want).max() > 0.1 > 20 * error.max()


def test_the_gradient_is_unbiased_when_every_draw_is_counted():
    """Drawing each item once, in a number proportional to Q, is the expectation itself: no sampling is left."""
    TORCH.require()
    counts = np.array([1, 2, 3, 4])
    scores, q = np.array([0.5, -1.0, 1.5, 0.0]), counts / counts.sum()
    drawn = np.repeat(np.arange(4), counts)
    slopes = TORCH.gradient(
        lambda n, s: sampled_softmax(s, n, log_q_negatives=np.log(q)[drawn], accidental=(drawn == 1)[None]),
        scores[drawn][None],
        scores[[1]],
    )[0]
    got = np.array([slopes[drawn == item].sum() for item in range(4)])
    want = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(got[[0, 2, 3]], want[[0, 2, 3]], rtol=1e-13)


def exact_gbce(positive, negatives, items, t):
    with mpmath.workdps(700):
        s, others = mpmath.mpf(float(positive)), [mpmath.mpf(float(v)) for v in negatives]
        k = len(others)
        alpha = mpmath.mpf(k) / (items - 1)
        beta = alpha * (mpmath.mpf(t) * (1 - 1 / alpha) + 1 / alpha)
        cost = -mpmath.log((1 / (1 + mpmath.exp(-s))) ** beta)
        cost -= mpmath.fsum(mpmath.log(1 / (1 + mpmath.exp(v))) for v in others)
        return float(cost / (k + 1))


def published_gbce(s, beta):
    """gSASRec's positive part in float64: a power of a clamped probability, made a logit of, and its binary loss."""
    p = np.clip(1 / (1 + np.exp(-s)), 1e-10, 1 - 1e-10)
    powered = np.clip(p**-beta, 1 + 1e-10, np.finfo(float).max)
    logit = np.log(np.clip(1 / (powered - 1), 1e-10, np.finfo(float).max))
    return np.log1p(np.exp(-logit))


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce(t, library):
    for positive in (POSITIVE, [700.0, -700.0, -40.0]):
        got = library.run(lambda s, n: gbce(s, n, items=1000, t=t), positive, NEGATIVES)
        want = [exact_gbce(s, n, 1000, t) for s, n in zip(positive, NEGATIVES, strict=True)]
        np.testing.assert_allclose(got, want, rtol=5 * library.eps)


def test_tails_gbce_of_gsasrec_has_no_slope_below_minus_23(differentiable):
    """Its probability is clamped at 1e-10: below log(1e-10) = -23.03 the loss is flat, where ours falls by beta."""
    beta = 0.25 + 0.75 * 3 / 999
    assert published_gbce(-24.0, beta) == published_gbce(-40.0, beta) == published_gbce(-700.0, beta)
    np.testing.assert_allclose(published_gbce(-5.0, beta), beta * np.log1p(np.exp(5.0)), rtol=1e-9)

    def loss(s, n):
        return gbce(s, n, items=1000)

    s, n = np.array([-24.0, -40.0, -700.0]), np.full((3, 3), -1000.0)
    got = differentiable.run(loss, s, n)
    np.testing.assert_allclose(got, beta / 4 * np.array([24.0, 40.0, 700.0]), rtol=1e-7)
    slopes = differentiable.gradient(loss, s, n)
    np.testing.assert_allclose(slopes, np.full(3, -beta / 4), rtol=1e-7)


def test_gbce_goes_from_binary_cross_entropy_to_calibrated(library):
    softplus = np.log1p(np.exp(-np.abs(NEGATIVES))) + np.maximum(NEGATIVES, 0)
    own = np.log1p(np.exp(-np.abs(POSITIVE))) + np.maximum(-POSITIVE, 0)
    for t, beta in ((0.0, 1.0), (1.0, 3 / 9999)):
        got = library.run(lambda s, n, t=t: gbce(s, n, items=10_000, t=t), POSITIVE, NEGATIVES)
        np.testing.assert_allclose(got, (beta * own + softplus.sum(-1)) / 4, rtol=8 * library.eps)


def test_the_calibrated_optimum_of_gbce_is_the_positive_share():
    """With t = 1 the score at which the expected slope is 0 is the logit of the share, as if nothing were sampled."""
    TORCH.require()
    items, k, share = 101, 5, 0.03
    logit = np.log(share / (1 - share))
    rest = np.full((1, k), -np.inf)
    as_positive = TORCH.gradient(
        lambda s, n: gbce(s, n, items=items, t=1.0), [logit], np.where(np.arange(k) < k, -1e3, rest)
    )[0]
    as_negative = TORCH.gradient(lambda n, s: gbce(s, n, items=items, t=1.0), [[logit] + [-1e3] * (k - 1)], [0.0])[0, 0]
    drawn = (1 - share) * k / (items - 1)  # how often an item that is not the positive is drawn
    np.testing.assert_allclose(share * as_positive + drawn * as_negative, 0, atol=1e-15)


def test_absent_negatives_do_not_count_for_gbce(library):
    negatives = np.where([True, False, True], NEGATIVES, -np.inf)
    got = library.run(lambda s, n: gbce(s, n, items=50), POSITIVE, negatives)
    want = library.run(lambda s, n: gbce(s, n, items=50), POSITIVE, NEGATIVES[:, [0, 2]])
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)


LOSSES = {
    "sampled": lambda n, s, **more: sampled_softmax(s, n, log_q_positive=s * 0 - 1, log_q_negatives=n * 0 - 2, **more),
    "gbce": lambda n, s, **more: gbce(s, n, items=50, **more),
    "in_batch": lambda n, s, **more: in_batch(n, log_q=COLUMN_LOG_Q[:3], ids=np.arange(3), **more),
}


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_do_not_count(name, differentiable):
    valid = np.array([False, True, False])
    negatives = np.where(valid[:, None], NEGATIVES, [np.nan, np.inf, -np.inf])
    positive = np.where(valid, POSITIVE, [np.nan, 0, -np.inf])

    def loss(n, s):
        return LOSSES[name](n, s, valid=valid)

    got, slopes = differentiable.run(loss, negatives, positive), differentiable.gradient(loss, negatives, positive)
    np.testing.assert_array_equal(got[[0, 2]], 0)
    np.testing.assert_array_equal(slopes[[0, 2]], 0)
    np.testing.assert_array_equal(got[1], differentiable.run(LOSSES[name], NEGATIVES, POSITIVE)[1])
    assert slopes[1].any()


def test_the_ends_of_sampled_softmax(differentiable):
    inf = np.inf
    positive, negatives = np.array([-inf, -inf, inf, 1.0]), np.array([[0.0, 1], [-inf, -inf], [inf, 0], [-inf, -inf]])
    got = differentiable.run(sampled_softmax, positive, negatives)
    np.testing.assert_allclose(got, [inf, np.nan, np.log(2), 0], rtol=4 * differentiable.eps)
    np.testing.assert_allclose(differentiable.gradient(sampled_softmax, positive, negatives), [-1, 0, -0.5, 0])


def test_where_nobody_may_look_a_probability_of_0_makes_its_row_nan():
    JAX_JIT.require()
    log_q = np.array([[-1.0, -2, -3], [-1, -np.inf, -3], [-1, 0.5, -3]])
    got = JAX_JIT.run(lambda n, q: sampled_softmax(n[:, 0], n, log_q_negatives=q), NEGATIVES, log_q)
    np.testing.assert_array_equal(np.isnan(got), [False, True, True])


def test_second_derivatives():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(SIMILARITY / 8).requires_grad_()
    for loss in (
        lambda z: sampled_softmax(z[:, 0], z[:, 1:], log_q_negatives=LOG_Q),
        lambda z: in_batch(z, log_q=COLUMN_LOG_Q, temperature=0.5),
        lambda z: gbce(z[:, 0], z[:, 1:], items=50),
    ):
        assert torch.autograd.gradcheck(loss, x)
        assert torch.autograd.gradgradcheck(loss, x)


def test_half_precision():
    positive, negatives = POSITIVE.astype(np.float16), NEGATIVES.astype(np.float16)
    for loss in LOSSES.values():
        got = loss(negatives, positive)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, loss(negatives.astype(np.float32), positive.astype(np.float32)))


SAMPLED = {"positive": POSITIVE, "negatives": NEGATIVES}
BATCH = {"similarity": SIMILARITY}


@pytest.mark.parametrize(
    ("function", "settings", "sentence"),
    [
        (sampled_softmax, {**SAMPLED, "log_q_negatives": LOG_Q * np.inf}, "-inf: an item of probability 0 is never"),
        (sampled_softmax, {**SAMPLED, "log_q_negatives": -LOG_Q}, "one is 0.5: a probability is at most 1"),
        (sampled_softmax, {**SAMPLED, "log_q_positive": LOG_Q_POSITIVE}, "goes with log_q_negatives; it came alone"),
        (
            sampled_softmax,
            {**SAMPLED, "log_q_negatives": LOG_Q, "log_q_positive": -LOG_Q_POSITIVE},
            "log_q_positive holds logarithms of probabilities above 0; one is 1:",
        ),
        (sampled_softmax, {**SAMPLED, "log_q_negatives": LOG_Q[:, :2]}, r"each of \(3, 3\), or .* it is \(3, 2\)"),
        (sampled_softmax, {**SAMPLED, "accidental": [True]}, r"one accidental per negative, \(3, 3\)"),
        (sampled_softmax, {**SAMPLED, "positive": POSITIVE[:2]}, r"one positive per row of negatives, \(3,\)"),
        (sampled_softmax, {**SAMPLED, "negatives": np.zeros((3, 0))}, "one negative at least for each positive"),
        (sampled_softmax, {**SAMPLED, "valid": [True]}, r"one valid per positive, \(3,\); valid is \(1,\)"),
        (in_batch, {"similarity": SIMILARITY.T}, r"as many columns as rows or more; similarity is \(4, 3\)"),
        (in_batch, {"similarity": POSITIVE}, r"the positive of each row is on the diagonal.* \(3,\)"),
        (in_batch, {**BATCH, "temperature": 0.0}, "in_batch: temperature is a finite number above 0"),
        (in_batch, {**BATCH, "temperature": -1.0, "log_q": COLUMN_LOG_Q}, "temperature is a finite number above 0"),
        (in_batch, {**BATCH, "log_q": COLUMN_LOG_Q[:3]}, r"log_q has .* it is \(3,\)"),
        (in_batch, {**BATCH, "ids": np.arange(3)}, r"one ids per column, \(4,\); ids is \(3,\)"),
        (in_batch, {**BATCH, "valid": [True]}, r"one valid per row, \(3,\)"),
        (gbce, {**SAMPLED, "items": 100, "t": 1.5}, "gbce: t is between 0 .* and 1 .*, not 1.5"),
        (gbce, {**SAMPLED, "items": 100, "t": -0.1}, "gbce: t is between 0"),
        (gbce, {**SAMPLED, "items": 3}, "the positive and at least its 3 negatives; 3 came"),
        (gbce, {**SAMPLED, "items": np.nan}, "items is the size of the catalogue"),
    ],
)
def test_wrong_calls(function, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(function)(**settings)  # past the shape hints
