"""The contrastive losses: definitions, what masks and labels leave out, learned parameters, tails, wrong calls."""

import importlib
import inspect
from math import inf, log, nan

import mpmath
import numpy as np
import pytest

import reference_contrastive as exact
from arrays import JAX_JIT, TORCH
from lastlayer.loss.contrastive import clip, info_nce, nt_xent, sup_con
from lastlayer.loss.contrastive_pairs import siglip, triplet
from reference import exact as bits

SQUARE = np.random.default_rng(0).normal(0, 2, (6, 6)).astype(np.float32).astype(float)
SOME, HALF = np.random.default_rng(1).random((2, 6, 6)) < [[[0.3]], [[0.5]]]
LABELS = np.array([0, 1, 0, 1, 1, 0])
POSITIVE = np.array([2, 0, 5, 4, 3, 1])
EYE = np.eye(6, dtype=bool)
SIGLIP = {"scale": 10.0, "bias": -10.0}


def softmax_loss(x, allowed, positive, temperature=1.0):
    """-log of the positive's share of what is allowed, by the textbook."""
    weights = np.where(allowed, np.exp(x / temperature), 0)
    return -np.log(np.exp(x[positive] / temperature) / weights.sum())


def in_float32(values):
    """As a PyTorch tensor whose gradient is wanted."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.07])
def test_info_nce_by_its_definition(temperature, library):
    got = library.run(lambda x, y: info_nce(x, y, temperature=temperature), SQUARE, POSITIVE)
    want = [exact.info_nce(bits(row), k, mpmath.mpf(temperature))[0] for row, k in zip(SQUARE, POSITIVE, strict=True)]
    np.testing.assert_allclose(got, np.array(want, float), rtol=5 * library.eps)


def test_the_diagonal_is_the_default_and_further_columns_are_negatives(library):
    got = library.run(info_nce, SQUARE[:4])
    np.testing.assert_array_equal(got, library.run(info_nce, SQUARE[:4], np.arange(4)))
    np.testing.assert_array_equal(library.run(info_nce, SQUARE[None, :4]), got[None])
    want = [softmax_loss(SQUARE[i], True, i) for i in range(4)]
    np.testing.assert_allclose(got, want, rtol=8 * library.eps)


def test_a_mask_takes_false_negatives_out_whatever_they_hold(differentiable):
    """The positive counts although the mask, made from labels that differ, says False there."""
    x, allowed = SQUARE.copy(), LABELS[:, None] != LABELS
    x[~allowed & ~EYE] = np.resize([nan, inf, 700.0], (~allowed & ~EYE).sum())

    def loss(z):
        return info_nce(z, mask=differentiable.of(allowed))

    want = [softmax_loss(SQUARE[i], allowed[i] | EYE[i], i) for i in range(6)]
    np.testing.assert_allclose(differentiable.run(loss, x), want, rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(loss, x)
    assert (slopes[~allowed & ~EYE] == 0).all()
    assert (slopes[allowed] > 0).all()
    np.testing.assert_allclose(slopes.sum(-1), 0, atol=4 * differentiable.eps)


def test_a_row_whose_negatives_are_all_masked_costs_nothing(differentiable):
    alone = differentiable.of(np.zeros((6, 6), bool))
    for loss in (
        lambda z: info_nce(z, mask=alone),
        lambda z: nt_xent(z, temperature=0.1, mask=alone),
        lambda z: clip(z, temperature=0.01, mask=alone),
        lambda z: sup_con(z, [0, 0, 1, 1, 2, 2], temperature=0.1, mask=alone),
    ):
        np.testing.assert_array_equal(differentiable.run(loss, SQUARE), np.zeros(6))
        np.testing.assert_array_equal(differentiable.gradient(loss, SQUARE), np.zeros((6, 6)))


def test_nt_xent_pairs_i_with_i_plus_n_and_never_sees_itself(differentiable):
    x = np.where(EYE, np.resize([nan, inf, -inf, 1e30], 6), SQUARE)

    def loss(z):
        return nt_xent(z, temperature=0.5)

    want = [softmax_loss(np.where(EYE[i], 0, SQUARE[i]), ~EYE[i], (i + 3) % 6, 0.5) for i in range(6)]
    np.testing.assert_allclose(differentiable.run(loss, x), want, rtol=8 * differentiable.eps)
    slopes = differentiable.gradient(loss, x)
    assert (slopes[EYE] == 0).all()
    np.testing.assert_allclose(slopes.sum(-1), 0, atol=8 * differentiable.eps)


def test_nt_xent_is_sup_con_where_each_label_has_two_views(library):
    got = library.run(lambda x: nt_xent(x, temperature=0.3), SQUARE)
    labelled = library.run(lambda x: sup_con(x, [0, 1, 2, 0, 1, 2], temperature=0.3), SQUARE)
    np.testing.assert_allclose(labelled, got, rtol=2 * library.eps)


@pytest.mark.parametrize("masked", [False, True])
def test_sup_con_is_the_mean_over_the_positives(masked, library):
    """With a mask a positive still counts, as a positive and in the denominator."""
    allowed = HALF if masked else np.ones((6, 6), bool)
    same = (LABELS[:, None] == LABELS) & ~EYE

    def loss(x):
        return sup_con(x, LABELS, temperature=0.5, mask=library.of(allowed) if masked else None)

    x = np.where(EYE, nan, SQUARE)
    want = [
        np.mean([softmax_loss(SQUARE[i], (allowed[i] | same[i]) & ~EYE[i], p, 0.5) for p in np.flatnonzero(same[i])])
        for i in range(6)
    ]
    np.testing.assert_allclose(library.run(loss, x), want, rtol=8 * library.eps)


def test_sup_con_against_a_queue_has_no_own_entry(library):
    queue = np.array([7, 0, 1, 1])

    def loss(x, labels):
        return sup_con(x, labels, queue, temperature=1.0)

    got = library.run(loss, SQUARE[:3, :4], np.array([1, 0, 7]))
    want = [np.mean([softmax_loss(SQUARE[0, :4], True, p) for p in (2, 3)])]
    want += [softmax_loss(SQUARE[1, :4], True, 1), softmax_loss(SQUARE[2, :4], True, 0)]
    np.testing.assert_allclose(got, want, rtol=8 * library.eps)


def test_clip_is_the_mean_of_both_directions(library):
    for mask in (None, HALF):
        among = np.ones((6, 6), bool) if mask is None else HALF | EYE

        def loss(x, mask=mask):
            return clip(x, temperature=0.5, mask=None if mask is None else library.of(mask))

        want = [
            (softmax_loss(SQUARE[i], among[i], i, 0.5) + softmax_loss(SQUARE[:, i], among[:, i], i, 0.5)) / 2
            for i in range(6)
        ]
        np.testing.assert_allclose(library.run(loss, SQUARE), want, rtol=8 * library.eps)
    whole, turned = (library.run(lambda x: clip(x, temperature=0.5), x) for x in (SQUARE, SQUARE.T))
    np.testing.assert_allclose(turned, whole, rtol=2 * library.eps)


def test_siglip_is_a_sum_of_binary_losses(library):
    z = 1.5 * SQUARE - 2
    costs = {sign: np.log1p(np.exp(-sign * z)) for sign in (1, -1)}
    for positive, matches in ((None, EYE), (POSITIVE, EYE[POSITIVE]), (SOME, SOME)):
        for mask in (None, HALF):

            def loss(x, positive=positive, mask=mask):
                mask = None if mask is None else library.of(mask)
                given = None if positive is None else library.of(positive)
                return siglip(x, given, scale=1.5, bias=-2.0, mask=mask)

            counted = np.ones((6, 6), bool) if mask is None else mask | matches
            want = (np.where(matches, costs[1], costs[-1]) * counted).sum(-1)
            x = np.where(counted, SQUARE, nan)
            np.testing.assert_allclose(library.run(loss, x), want, rtol=8 * library.eps)


@pytest.mark.parametrize("kind", ["hinge", "softplus"])
def test_triplet_by_its_definition(kind, library):
    near, far = np.array([0.5, 2.0, 0.0, inf, 1.0]), np.array([1.0, 0.5, 0.25, 1.0, inf])

    def loss(x, y):
        return triplet(x, y, margin=0.25, kind=kind)

    v = near - far + 0.25
    want = np.maximum(v, 0) if kind == "hinge" else np.logaddexp(0, v)
    np.testing.assert_allclose(library.run(loss, near, far), want, rtol=4 * library.eps)


def test_triplet_pulls_and_pushes_by_the_same_slope(differentiable):
    """At the margin itself the hinge has slope 0."""
    near, far = np.array([0.5, 2.0, 0.75]), np.array([1.0, 0.5, 1.0])
    for kind, slopes in (("hinge", np.array([0.0, 1.0, 0.0])), ("softplus", 1 / (1 + np.exp([0.25, -1.75, 0.0])))):
        towards = differentiable.gradient(lambda x, y, kind=kind: triplet(x, y, margin=0.25, kind=kind), near, far)
        away = differentiable.gradient(lambda y, x, kind=kind: triplet(x, y, margin=0.25, kind=kind), far, near)
        np.testing.assert_allclose(towards, slopes, rtol=4 * differentiable.eps)
        np.testing.assert_array_equal(away, -towards)


TUNED = {
    "info_nce": (lambda x, t: info_nce(x, temperature=t), 0.3),
    "nt_xent": (lambda x, t: nt_xent(x, temperature=t), 0.3),
    "clip": (lambda x, t: clip(x, temperature=t), 0.3),
    "sup_con": (lambda x, t: sup_con(x, LABELS, temperature=t), 0.3),
    "siglip, scale": (lambda x, t: siglip(x, scale=t, bias=-1.0), 2.0),
    "siglip, bias": (lambda x, t: siglip(x, scale=2.0, bias=t), -1.0),
}


@pytest.mark.parametrize("case", TUNED)
def test_a_learned_parameter_gives_the_loss_of_the_number_and_has_its_gradient(case, differentiable):
    """Masked entries at -inf teach it nothing, where 0 * inf would be nan; the difference quotient is in float64."""
    function, at = TUNED[case]
    x = np.where(EYE | (SQUARE < -2), -inf, SQUARE) if case == "sup_con" else np.where(SQUARE < -2, -inf, SQUARE)
    x = np.where(LABELS[:, None] == LABELS, SQUARE, x) if case == "sup_con" else x
    x = np.where(EYE | np.roll(EYE, 3, axis=0), SQUARE, x)
    at, step = float(np.float32(at)), 1e-5

    def learned(t):
        return function(differentiable.of(x), t)

    got = differentiable.run(learned, np.array(at))
    np.testing.assert_allclose(got, differentiable.run(lambda z: function(z, at), x), rtol=4 * differentiable.eps)
    want = (function(x, at + step).sum() - function(x, at - step).sum()) / (2 * step)
    slope = differentiable.gradient(learned, np.array(at))
    np.testing.assert_allclose(slope, want, rtol=64 * differentiable.eps + 1e-8)


def test_second_derivatives_also_in_learned_parameters():
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(SQUARE[:4, :4] / 2).requires_grad_()
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    cases = (
        (lambda z, t: info_nce(z, temperature=t), (x, t)),
        (lambda z, t: nt_xent(z, temperature=t), (x, t)),
        (lambda z, t: clip(z, temperature=t), (x, t)),
        (lambda z, t: sup_con(z, [0, 0, 1, 0], temperature=t, valid=[True, True, False, True]), (x, t)),
        (lambda z, t, b: siglip(z, scale=t, bias=b), (x, t, b)),
    )
    for loss, given in cases:
        assert torch.autograd.gradcheck(loss, given)
        assert torch.autograd.gradgradcheck(loss, given)


VALID = np.array([True, False, True, True, False, True])
ROWS = {
    "info_nce": lambda x, valid: info_nce(x, np.where(VALID, POSITIVE, -100), temperature=0.5, valid=valid),
    "nt_xent": lambda x, valid: nt_xent(x, temperature=0.5, valid=valid),
    "sup_con": lambda x, valid: sup_con(x, [0, 7, 0, 1, 8, 1], temperature=0.5, valid=valid),
    "siglip": lambda x, valid: siglip(x, np.where(VALID, POSITIVE, -100), valid=valid, **SIGLIP),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_does_not_count_costs_nothing_whatever_it_holds(case, differentiable):
    held = np.resize([nan, inf, -inf], (6, 6))
    x = np.where(VALID[:, None], SQUARE, held)

    def loss(z):
        return ROWS[case](z, VALID)

    losses, slopes = differentiable.run(loss, x), differentiable.gradient(loss, x)
    assert (losses[~VALID] == 0).all()
    assert (slopes[~VALID] == 0).all()
    np.testing.assert_array_equal(losses[VALID], differentiable.run(loss, SQUARE)[VALID])
    assert (losses[VALID] > 0).all()
    assert np.isfinite(slopes).all()
    assert slopes[VALID].any(-1).all()


def test_a_pair_that_does_not_count_is_also_gone_from_clip_where_the_mask_says_so(differentiable):
    mask = np.broadcast_to(VALID, (6, 6)) & VALID[:, None]
    x = np.where(mask, SQUARE, nan)

    def loss(z):
        return clip(z, temperature=0.5, mask=differentiable.of(mask), valid=VALID)

    losses, slopes = differentiable.run(loss, x), differentiable.gradient(loss, x)
    alone = differentiable.run(lambda z: clip(z, temperature=0.5), SQUARE[np.ix_(VALID, VALID)])
    np.testing.assert_allclose(losses[VALID], alone, rtol=4 * differentiable.eps)
    assert (losses[~VALID] == 0).all()
    assert (slopes[~mask] == 0).all()


def test_a_triplet_that_does_not_count(differentiable):
    near, far = np.array([nan, inf, 1.0]), np.array([1.0, inf, 0.5])
    for kind in ("hinge", "softplus"):

        def loss(x, y, kind=kind):
            return triplet(x, y, margin=0.5, kind=kind, valid=[False, False, True])

        assert (differentiable.run(loss, near, far)[:2] == 0).all()
        np.testing.assert_array_equal(differentiable.gradient(loss, near, far)[:2], 0)
        assert differentiable.gradient(loss, near, far)[2] > 0


def test_an_anchor_without_a_finite_similarity_teaches_nothing(differentiable):
    x, labels = np.array([[-np.inf] * 3, [0.0, 0.5, 0.25], [0.5, 0.0, 0.75]]), np.zeros(3, int)

    def loss(x, y):
        return sup_con(x, y, temperature=0.5)

    assert np.isnan(differentiable.run(loss, x, labels)).tolist() == [True, False, False]
    slopes = differentiable.gradient(loss, x, labels)
    assert (slopes[0] == 0).all() and np.isfinite(slopes).all() and slopes[1:].any()


def test_special_rows(library):
    """A positive at -inf, an empty row, a nan, two at inf, a positive at inf alone."""
    rows = [[-inf, 0.0, 1.0], [-inf] * 3, [0.0, nan, 1.0], [inf, 0.0, inf], [inf, 0.0, 1.0]]
    got = library.run(lambda x, y: info_nce(x, y, temperature=0.5), rows, np.zeros(5, int))
    np.testing.assert_allclose(got, [inf, nan, nan, log(2), 0], rtol=2 * library.eps)
    got = library.run(lambda x, y: siglip(x, y, **SIGLIP), rows, np.zeros(5, int))
    one = np.log1p(np.exp(-10.0))
    np.testing.assert_allclose(got, [inf, inf, nan, inf, one + log(2)], rtol=4 * library.eps)


@pytest.mark.parametrize("package", ["numpy", "torch", "jax"])
def test_half_precision_is_computed_in_float32(package):
    xp = importlib.import_module("jax.numpy" if package == "jax" else package)
    half = xp.asarray(SQUARE.astype(np.float32)).astype("float16") if package != "torch" else TORCH.of(SQUARE).half()
    wide = half.float() if package == "torch" else half.astype("float32")
    for loss in (
        lambda x: info_nce(x, temperature=0.07),
        lambda x: nt_xent(x, temperature=0.07),
        lambda x: clip(x, temperature=0.07),
        lambda x: sup_con(x, LABELS, temperature=0.07),
        lambda x: siglip(x, scale=10.0, bias=-10.0),
        lambda x: triplet(x, x.T, margin=0.2, kind="softplus"),
    ):
        assert str(loss(half).dtype).endswith("float32")
        np.testing.assert_array_equal(loss(half), loss(wide))


@pytest.mark.parametrize("margin", [20.0, 80.0])
def test_tails_a_positive_that_dominates_keeps_its_loss_and_gradient(margin, differentiable):
    """Dividing by 0.07 first rounds: of F.cross_entropy(similarity / 0.07) nothing is left at 20 in float32."""
    row = np.array([[1.0, 1.0 - 0.07 * margin, -20.0]]).astype(np.float32).astype(float)

    def loss(x):
        return info_nce(x, temperature=0.07)

    want = exact.info_nce(bits(row[0]), 0, mpmath.mpf(0.07))[0]
    slope = (1 - mpmath.exp(-want)) / mpmath.mpf(0.07)
    np.testing.assert_allclose(differentiable.run(loss, row), [float(want)], rtol=5 * differentiable.eps)
    slopes = differentiable.gradient(loss, row)
    np.testing.assert_allclose(slopes[0, :2], [-float(slope), float(slope)], rtol=5 * differentiable.eps)
    if differentiable is not TORCH and margin == 20:
        torch = pytest.importorskip("torch", reason="pip install torch")
        published = in_float32(row)
        lost = torch.nn.functional.cross_entropy(published / 0.07, torch.tensor([0]))
        lost.backward()
        assert lost == 0
        assert published.grad[0, 0] == 0


def test_tails_scores_up_to_700(differentiable):
    """As far as exp reaches: 700 in float64, 80 in float32."""
    far = 700.0 if differentiable.dtype == "float64" else 80.0
    x = np.array([[far, 0.0], [0.0, -far], [-far, 0.0], [far, far]])
    target = np.array([0, 0, 0, 1])
    with mpmath.workdps(400):
        want = [float(exact.info_nce(bits(row), k)[0]) for row, k in zip(x, target, strict=True)]
        judged = [float(mpmath.log(1 + mpmath.exp(-v))) for v in bits(x[:, 0])]
    assert want[0] > 0
    np.testing.assert_allclose(differentiable.run(info_nce, x, target), want, rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(info_nce, x, target)
    np.testing.assert_allclose(slopes[:2, 0], -np.expm1(np.array(want[:2])), rtol=4 * differentiable.eps)
    np.testing.assert_array_equal(slopes[2], [-1, 1])
    got = differentiable.run(lambda z, y: siglip(z, y, scale=1.0, bias=0.0), x[:, :1], np.zeros(4, int))
    np.testing.assert_allclose(got, judged, rtol=4 * differentiable.eps)


def test_tails_sup_con_of_the_reference_code_takes_the_log_of_0(differentiable):
    """SupContrast#50, pull request 111: the row's maximum is the own entry, and all that is left underflows."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    similarity = np.where(np.eye(4), 1.0, -0.5) + 0.25 * np.eye(4)[[1, 0, 3, 2]]
    labels, temperature = [0, 0, 1, 1], 0.01
    logits = in_float32(similarity) / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    published = logits - torch.log((torch.exp(logits) * (1 - torch.eye(4))).sum(1, keepdim=True))
    assert not published.isfinite().any()

    def loss(x):
        return sup_con(x, labels, temperature=temperature)

    got = differentiable.run(loss, similarity)
    want = exact.sup_con(bits([-0.25, -0.5, -0.5]), [0], mpmath.mpf(temperature))[0]
    np.testing.assert_allclose(got, [float(want)] * 4, rtol=5 * differentiable.eps)
    slopes = differentiable.gradient(loss, similarity)
    np.testing.assert_allclose(slopes[0, 1], float((mpmath.exp(-want) - 1) / temperature), rtol=5 * differentiable.eps)


def test_tails_sup_con_of_the_reference_code_divides_by_no_positives():
    """0 / 0 for a label that stands alone (SupContrast#104, pull request 142); ours is asked to leave it out."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    same = (torch.tensor(LABELS[:3])[:, None] == torch.tensor(LABELS[:3])).float() - torch.eye(3)
    logp = torch.log_softmax(torch.tensor(SQUARE[:3, :3]).masked_fill(torch.eye(3).bool(), -1e30), dim=1)
    assert ((same * logp).sum(1) / same.sum(1)).isnan().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"^sup_con: each anchor has another entry of its label; row 1 has none"):
        sup_con(SQUARE[:3, :3], LABELS[:3], temperature=1.0)
    valid = (LABELS[:3, None] == LABELS[:3]).sum(-1) > 1
    got = sup_con(SQUARE[:3, :3], LABELS[:3], temperature=1.0, valid=valid)
    want = [softmax_loss(SQUARE[0, :3], [False, True, True], 2), 0, softmax_loss(SQUARE[2, :3], [True, True, False], 0)]
    np.testing.assert_allclose(got, want, rtol=1e-15)


def test_tails_nt_xent_of_lightning_bolts_subtracts_what_it_summed(differentiable):
    """lightning-bolts#320, #811: sums of exp(s / t) less exp(1 / t) cancel to 0 or overflow, then an epsilon."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    cosines = np.where(np.eye(4), 1.0, -0.25) + 0.75 * np.eye(4)[[2, 3, 0, 1]]
    for temperature in (0.02, 0.01):
        powers = torch.exp(in_float32(cosines) / temperature)
        negatives = torch.clamp(powers.sum(-1) - torch.exp(torch.tensor(1.0) / temperature), min=1e-6)
        published = -torch.log(powers[[0, 1, 2, 3], [2, 3, 0, 1]] / (negatives + 1e-6))
        want = exact.info_nce(bits([0.5, -0.25, -0.25]), 0, mpmath.mpf(temperature))[0]
        assert not (abs(published - float(want)) < 1).any()

        def loss(x, temperature=temperature):
            return nt_xent(x, temperature=temperature)

        got, slopes = differentiable.run(loss, cosines), differentiable.gradient(loss, cosines)
        np.testing.assert_allclose(got, [float(want)] * 4, rtol=5 * differentiable.eps)
        pull = float((mpmath.exp(-want) - 1) / mpmath.mpf(temperature))
        np.testing.assert_allclose(slopes[[0, 1, 2, 3], [2, 3, 0, 1]], pull, rtol=5 * differentiable.eps)


def test_tails_clip_at_a_logit_scale_of_100():
    """Cosines of 1 and -1: F.cross_entropy gives 0 and no gradient also in float64, where exp(-200) is a number."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(2 * np.eye(3) - 1).requires_grad_()
    published = torch.nn.functional.cross_entropy(100 * x, torch.arange(3))
    assert published == 0
    assert (torch.autograd.grad(published, x)[0].diagonal() == 0).all()
    losses = clip(x, temperature=0.01)
    want = exact.info_nce(bits([1.0, -1.0, -1.0]), 0, mpmath.mpf(0.01))[0]
    np.testing.assert_allclose(losses.detach(), [float(want)] * 3, rtol=1e-15)
    (slopes,) = torch.autograd.grad(losses.sum(), x)
    pull = float((mpmath.exp(-want) - 1) / mpmath.mpf(0.01))
    np.testing.assert_allclose(slopes.diagonal(), [pull] * 3, rtol=1e-15)
    wrong = clip(-x, temperature=0.01)
    np.testing.assert_allclose(wrong.detach(), [200 + log(2)] * 3, rtol=1e-15)


def test_tails_a_mask_by_multiplication_is_nan(differentiable):
    """0 * -inf: what `logits * mask` makes of an entry that was taken out."""
    x = np.array([[1.0, -inf, 0.0], [0.0, 1.0, -inf], [nan, 0.0, 1.0]])
    mask = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]])
    with np.errstate(invalid="ignore"):
        assert np.isnan(x * mask).any(-1).all()
    kept = differentiable.of(mask == 1)

    def of_labels(z):
        return sup_con(z, [0, 1, 2], [0, 1, 2], temperature=1.0, mask=kept)

    want = np.log1p(np.exp(-1.0))
    for loss in (lambda z: info_nce(z, mask=kept), of_labels):
        np.testing.assert_allclose(differentiable.run(loss, x), [want] * 3, rtol=4 * differentiable.eps)
        slopes = differentiable.gradient(loss, x)
        assert (slopes[mask == 0] == 0).all()
        assert np.isfinite(slopes).all()


def test_tails_siglip_carries_what_scale_and_bias_round_away(differentiable):
    """80 * eps / 2 of a rounded logit is 40 units of its tail; through 1 - sigmoid nothing of it is left."""
    x = np.array([[-0.123, 1.956, -0.987]]).astype(np.float32).astype(float)
    rate, shift = 50.3, -29.7
    published = 1 / (1 + np.exp(-(np.float32(rate) * np.float32(x[0, 2]) + np.float32(shift))))
    assert np.log(1 - published) == 0
    for positive, signs in (([[False] * 3], [-1, -1, -1]), ([[False, True, False]], [-1, 1, -1])):
        for k in range(3):
            column = slice(k, k + 1)

            def loss(z, positive=positive, column=column):
                matches = differentiable.of(np.array(positive)[:, column])
                return siglip(z, matches, scale=rate, bias=shift)

            z = signs[k] * (mpmath.mpf(rate) * mpmath.mpf(x[0, k]) + mpmath.mpf(shift))
            want, slope = mpmath.log(1 + mpmath.exp(-z)), -signs[k] * mpmath.mpf(rate) / (1 + mpmath.exp(z))
            np.testing.assert_allclose(
                differentiable.run(loss, x[:, column]), [float(want)], rtol=5 * differentiable.eps
            )
            np.testing.assert_allclose(
                differentiable.gradient(loss, x[:, column]), [[float(slope)]], rtol=5 * differentiable.eps
            )


def test_tails_a_soft_margin_keeps_what_the_distances_round_away(library):
    near, far = np.array([0.3]).astype(library.dtype), np.array([70.1]).astype(library.dtype)
    with mpmath.workdps(60):
        v = mpmath.mpf(float(near[0])) - mpmath.mpf(float(far[0])) + mpmath.mpf(30.3)
        want = float(mpmath.log1p(mpmath.exp(v)))
    got = library.run(lambda x, y: triplet(x, y, margin=30.3, kind="softplus"), near, far)
    np.testing.assert_allclose(got, [want], rtol=4 * library.eps)


def test_tails_a_soft_margin_beyond_the_range_of_exp(differentiable):
    """log1p(exp(v)) is inf from 89 in float32, and its gradient nan; at v = -80 the pull is exp(-80), not 0."""
    near, far = np.array([1000.0, 0.25]), np.array([0.0, 80.25])
    with np.errstate(over="ignore"):
        assert np.log1p(np.exp(np.float32(1000.0))) == inf

    def loss(x, y):
        return triplet(x, y, margin=0.0, kind="softplus")

    got = differentiable.run(loss, near, far)
    np.testing.assert_allclose(got, [1000.0, np.exp(-80.0)], rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(loss, near, far)
    np.testing.assert_allclose(slopes, [1.0, np.exp(-80.0)], rtol=4 * differentiable.eps)


def test_the_margin_counts_although_the_distances_are_large(library):
    """float32 rounds 3 - 3.2 and 0.2 by more than their sum, 2e-7, can bear: what they lose is carried."""
    near, far = np.array([3.0000003]), np.array([3.2])
    near, far = near.astype(np.float32).astype(float), far.astype(np.float32).astype(float)
    want = float(bits(near)[0] - bits(far)[0] + mpmath.mpf(0.2))
    got = library.run(lambda x, y: triplet(x, y, margin=0.2), near, far)
    assert 0 < want < 1e-6
    np.testing.assert_allclose(got, [want], rtol=2 * library.eps)


def test_where_nobody_may_look_a_wrong_row_is_nan_with_gradient_0():
    JAX_JIT.require()

    def named(x, y):
        return info_nce(x, y)

    got = JAX_JIT.run(named, SQUARE[:3], np.array([0, 6, -1]))
    np.testing.assert_array_equal(np.isnan(got), [False, True, True])

    def labelled(x, labels):
        return sup_con(x, labels, temperature=0.5)

    labels = np.array([0, 0, 1, 2, 1, 1])
    got = JAX_JIT.run(labelled, SQUARE, labels)
    np.testing.assert_array_equal(np.isnan(got), labels == 2)
    slopes = JAX_JIT.gradient(labelled, SQUARE, labels)
    assert (slopes[3] == 0).all()
    assert np.isfinite(slopes).all()

    def tuned(t):
        return clip(JAX_JIT.of(SQUARE), temperature=t)

    assert np.isnan(JAX_JIT.run(tuned, np.array(-1.0))).all()
    assert np.isnan(JAX_JIT.run(lambda t: siglip(JAX_JIT.of(SQUARE), scale=t, bias=0.0), np.array(0.0))).all()


OBLONG, ODD = SQUARE[:, :4], SQUARE[:3, :3]
WRONG = [
    (info_nce, (OBLONG,), {}, r"row i belongs to column i, and similarity \(6, 4\) has 6 rows for 4 columns"),
    (info_nce, (SQUARE[0],), {}, r"one row per query and one column per key; it is \(6,\)"),
    (info_nce, (SQUARE, [0, 1]), {}, r"one positive per row of similarity, \(6,\); positive is \(2,\)"),
    (info_nce, (SQUARE, [0, 1, 2, 3, 4, 6]), {}, "positive 6 is not one of the 6"),
    (info_nce, (SQUARE, [0, 1, 2, 3, 4, -1]), {}, "positive -1 is not one of the 6"),
    (info_nce, (SQUARE,), {"temperature": 0.0}, "temperature is a finite number above 0, not 0.0"),
    (info_nce, (SQUARE,), {"mask": EYE[0]}, r"one mask per entry of similarity, \(6, 6\); mask is \(6,\)"),
    (info_nce, (SQUARE,), {"valid": [True]}, r"one valid per row of similarity, \(6,\); valid is \(1,\)"),
    (nt_xent, (OBLONG,), {"temperature": 0.5}, r"same view, so similarity is square; it is \(6, 4\)"),
    (nt_xent, (ODD,), {"temperature": 0.5}, r"views come in pairs, i and i \+ n of 2n; similarity \(3, 3\) has 3"),
    (nt_xent, (SQUARE,), {"temperature": -1}, "temperature is a finite number above 0, not -1"),
    (clip, (OBLONG,), {"temperature": 0.1}, r"row i and column i are a pair, so similarity is square; it is \(6, 4\)"),
    (clip, (SQUARE,), {"temperature": 0}, "temperature is a finite number above 0, not 0"),
    (clip, (SQUARE,), {"temperature": np.ones((6, 1))}, r"one number, for rows and columns alike; \(6, 1\) came"),
    (sup_con, (SQUARE, [0, 1, 0]), {"temperature": 1}, r"one label per row.*\(6,\); labels are \(3,\). Two views"),
    (sup_con, (OBLONG, LABELS), {"temperature": 1}, r"without key_labels.*square; it is \(6, 4\)"),
    (sup_con, (OBLONG, LABELS, [0, 1]), {"temperature": 1}, r"one key label per column.*\(4,\); key_labels are \(2,\)"),
    (
        sup_con,
        (SQUARE, [0, 0, 1, 2, 3, 4]),
        {"temperature": 1},
        "row 2, 3, 4 has none. Leave such rows out",
    ),
    (sup_con, (OBLONG, LABELS, [0, 0, 0, 0]), {"temperature": 1}, "row 1, 3, 4 has none"),
    (sup_con, (SQUARE, LABELS), {"temperature": inf}, "temperature is a finite number above 0, not inf"),
    (siglip, (OBLONG,), SIGLIP, r"similarity \(6, 4\) has 6 rows for 4 columns"),
    (siglip, (SQUARE, EYE[:3]), SIGLIP, r"one positive per entry of similarity, \(6, 6\); positive is \(3, 6\)"),
    (siglip, (SQUARE,), {"scale": -1.0, "bias": 0.0}, "scale is a finite number above 0, not -1.0"),
    (siglip, (SQUARE,), {"scale": 1.0, "bias": nan}, "bias is a finite number, not nan"),
    (siglip, (SQUARE,), {"scale": np.ones(1), "bias": 0.0}, r"scale is one number.*\(1,\) came"),
    (triplet, ([1.0, 2.0], [1.0]), {"margin": 0.5}, r"one negative_distance per positive_distance, \(2,\)"),
    (triplet, ([1.0], [1.0]), {"margin": -0.5}, "margin is a finite distance, not below 0; -0.5 came"),
    (triplet, ([1.0], [1.0]), {"margin": 0.5, "kind": "hinged"}, "kind is one of 'hinge', 'softplus'.*Did you mean"),
]


@pytest.mark.parametrize(("function", "args", "settings", "sentence"), WRONG)
def test_wrong_calls(function, args, settings, sentence):
    with pytest.raises(ValueError, match=f"^{function.__name__}: .*{sentence}"):
        inspect.unwrap(function)(*args, **settings)  # past the shape hints that the test run enforces


@pytest.mark.parametrize(
    ("function", "settings"),
    [(info_nce, {}), (nt_xent, {"temperature": 1.0}), (clip, {"temperature": 1.0}), (siglip, SIGLIP)],
)
def test_a_mask_of_numbers_and_a_positive_of_another_kind_are_refused(function, settings):
    for mask in (np.ones((6, 6)), np.ones((6, 6), int)):
        with pytest.raises(TypeError, match=f"^{function.__name__}: mask is bool, True where.*not (float64|int64)"):
            inspect.unwrap(function)(SQUARE, mask=mask, **settings)
    if function in (info_nce, siglip):
        with pytest.raises(TypeError, match=f"^{function.__name__}: positive is the index of a column.*not float64"):
            inspect.unwrap(function)(SQUARE, np.zeros(6), **settings)
