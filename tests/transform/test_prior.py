"""adjust_prior and adjust_class_weight: the published identities, counts and shares, edges and derivatives."""

import inspect

import mpmath
import numpy as np
import pytest

from arrays import JAX_JIT, TORCH
from lastlayer.transform.prior import adjust_class_weight, adjust_prior
from lastlayer.transform.sigmoid import sigmoid
from lastlayer.transform.softmax import softmax

ROWS = np.array([[2.0, 1.0, -np.inf], [-3.0, 0.5, 4.0]])
SOURCE, TARGET = np.array([0.7, 0.2, 0.1]), np.array([0.25, 0.25, 0.5])


def test_it_is_bayes_rule(library):
    """Saerens et al. 2002, eq. 2.4: p * target / source, normalised."""
    want = np.exp(ROWS) / np.exp(ROWS).sum(-1, keepdims=True) * TARGET / SOURCE
    got = library.run(lambda z: softmax(adjust_prior(z, SOURCE, TARGET)), ROWS)
    np.testing.assert_allclose(got, want / want.sum(-1, keepdims=True), rtol=8 * library.eps)


def test_it_is_elkans_theorem_2(library):
    """p' = b' (p - p b) / (b - p b + b' p - b b') for the base rates b and b'."""
    z, b, wanted = np.linspace(-6, 6, 13), 0.2, 0.03
    p = 1 / (1 + np.exp(-z))
    want = wanted * (p - p * b) / (b - p * b + wanted * p - b * wanted)
    got = library.run(lambda z: sigmoid(adjust_prior(z, b, wanted)), z)
    np.testing.assert_allclose(got, want, rtol=16 * library.eps)


def test_it_is_the_prior_correction_of_king_and_zeng(library):
    """Eq. 7 of 2001: the intercept less log((1 - tau) / tau * ybar / (1 - ybar))."""
    tau, ybar = 0.002, 0.4
    want = np.array([1.0, -2.0]) - np.log((1 - tau) / tau * ybar / (1 - ybar))
    got = library.run(lambda z: adjust_prior(z, ybar, tau), [1.0, -2.0])
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)
    kept = tau * (1 - ybar) / (ybar * (1 - tau))  # the share of the negatives that was kept, for every positive
    np.testing.assert_allclose(library.run(lambda z: adjust_class_weight(z, 1 / kept), [1.0, -2.0]), want, rtol=1e-6)


def test_there_and_back_is_where_it_was(library):
    def returned(z):
        return adjust_prior(adjust_prior(z, SOURCE, TARGET), TARGET, SOURCE)

    np.testing.assert_allclose(library.run(returned, ROWS), ROWS, rtol=0, atol=8 * library.eps)


def test_counts_add_a_constant(library):
    moved = library.run(lambda z: adjust_prior(z, np.array([700, 200, 100]), [1, 1, 2]), ROWS)
    want = library.run(lambda z: adjust_prior(z, SOURCE, TARGET), ROWS) - np.log(1000 / 4)
    np.testing.assert_allclose(moved, want, rtol=0, atol=8 * library.eps)


def test_two_classes_are_a_share(library):
    rows = np.array([[0.0, 1.5], [2.0, -1.0]])
    two = library.run(lambda z: adjust_prior(z, np.array([0.9, 0.1]), np.array([0.5, 0.5])), rows)
    one = library.run(lambda z: adjust_prior(z, 0.1, 0.5), rows[:, 1] - rows[:, 0])
    np.testing.assert_allclose(two[:, 1] - two[:, 0], one, rtol=8 * library.eps)


def test_a_prior_for_each_row(library):
    sources, targets = np.stack([SOURCE, TARGET]), np.stack([TARGET, SOURCE])
    got = library.run(lambda z: adjust_prior(z, sources, targets), ROWS)
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = library.run(lambda z, s=source, t=target: adjust_prior(z, s, t), ROWS[i])
        np.testing.assert_array_equal(got[i], alone)
    both = library.run(lambda z: adjust_prior(z, SOURCE, targets), ROWS)
    np.testing.assert_array_equal(both[0], got[0])


@pytest.mark.parametrize(("source", "target"), [(0.3, 0.3000001), (0.99, 0.991), (1e-30, 3e-30), (0.01, 0.6)])
def test_near_priors_do_not_cancel(source, target, library):
    """logit(t) - logit(s) in float64 has 9 digits left for priors that differ in the seventh."""
    with mpmath.workdps(50):
        s, t = mpmath.mpf(source), mpmath.mpf(target)
        want = float(mpmath.log(t / s) - mpmath.log((1 - t) / (1 - s)))
    got = library.run(lambda z: adjust_prior(z, source, target), [0.0])
    np.testing.assert_allclose(got, [want], rtol=3 * library.eps, atol=0)
    rows = library.run(lambda z: adjust_prior(z, [source, 1.0], [target, 1.0]), [[0.0, 0.0]])
    with mpmath.workdps(50):
        np.testing.assert_allclose(rows, [[float(mpmath.log(t / s)), 0]], rtol=3 * library.eps, atol=0)


def test_priors_of_any_size_overflow_nothing(library):
    got = library.run(lambda z: adjust_prior(z, [1e-300, 1e300], [1e300, 1e-300]), [[1.0, 1.0]])
    np.testing.assert_allclose(got, [[1 + 600 * np.log(10), 1 - 600 * np.log(10)]], rtol=2 * library.eps)


def test_a_target_of_0_masks_the_class(library):
    got = library.run(lambda z: adjust_prior(z, [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]), [[0.0, np.inf, np.nan]])
    np.testing.assert_allclose(got, [[np.log(2), -np.inf, -np.inf]], rtol=4 * library.eps)


@pytest.mark.parametrize(("source", "target", "want"), [(0.5, 0, -np.inf), (0.5, 1, np.inf), (0, 0, -np.inf)])
def test_a_share_of_0_or_1_is_certain(source, target, want, library):
    np.testing.assert_array_equal(library.run(lambda z: adjust_prior(z, source, target), [0.0, 5.0]), [want, want])


@pytest.mark.parametrize("give", [lambda z: adjust_prior(z, SOURCE, TARGET), lambda z: adjust_prior(z, 0.2, 0.4)])
def test_special_values_move_nothing_else(give, differentiable):
    row = [[-np.inf, np.inf, np.nan]]
    np.testing.assert_array_equal(differentiable.run(give, row), row)
    np.testing.assert_array_equal(differentiable.gradient(give, row), [[0, 1, 1]])


def test_the_gradient_in_the_priors(differentiable):
    """1 / target_k and -1 / source_k, summed over the rows that are not masked there; also where the two are equal."""
    shared = np.array([0.25, 0.5, 0.125])
    rows = differentiable.of(ROWS)
    up = differentiable.gradient(lambda t: adjust_prior(rows, shared, t), shared)
    down = differentiable.gradient(lambda s: adjust_prior(rows, s, TARGET), shared)
    np.testing.assert_allclose(up, [8, 4, 8], rtol=4 * differentiable.eps)
    np.testing.assert_allclose(down, [-8, -4, -8], rtol=4 * differentiable.eps)
    share = differentiable.gradient(lambda t: adjust_prior(differentiable.of([0.0, 1.0]), 0.25, t), 0.25)
    np.testing.assert_allclose(share, 2 / (0.25 * 0.75), rtol=4 * differentiable.eps)


def test_torch_differentiates_twice():
    torch = pytest.importorskip("torch", reason="pip install torch")
    given = [TORCH.of(a).requires_grad_() for a in (ROWS[1:], SOURCE, TARGET)]
    assert torch.autograd.gradcheck(adjust_prior, given)
    assert torch.autograd.gradgradcheck(adjust_prior, given)
    shares = [TORCH.of(a).requires_grad_() for a in ([1.0, -2.0], 0.3, 0.8)]
    assert torch.autograd.gradgradcheck(adjust_prior, shares)
    weighted = [TORCH.of(a).requires_grad_() for a in (ROWS[1:], [0.5, 2.0, 3.0])]
    assert torch.autograd.gradgradcheck(adjust_class_weight, weighted)


@pytest.mark.parametrize("library", [JAX_JIT, TORCH], ids=str)
def test_em_finds_the_prior_it_was_drawn_from(library):
    """Saerens et al. 2002, eq. 2.9: the mean posterior, again and again; one case with a closed form.

    Half the rows say class 0 for sure and half say nothing: the likelihood t_0^n (t_0 + t_1)^n is highest at (1, 0).
    """
    library.require()
    rows, prior = library.of([[60.0, -60.0], [0.0, 0.0]]), library.of([0.5, 0.5])
    for _ in range(8):
        prior = softmax(adjust_prior(rows, [0.5, 0.5], prior)).mean(0)
    np.testing.assert_allclose(library.numpy(prior), [1 - 0.5**9, 0.5**9], rtol=1e-5)


def test_a_prior_that_says_nothing_is_refused():
    for source, target in (([1, -1, 1], TARGET), (SOURCE, [1, np.nan, 1]), (SOURCE, [1, np.inf, 1])):
        with pytest.raises(ValueError, match=r"a prior or count of each class, .*not negative, not (-1|nan|inf)"):
            adjust_prior(ROWS, source, target)
    with pytest.raises(ValueError, match="class 1 has a target above 0 and a source of 0"):
        adjust_prior(ROWS, [0.5, 0.0, 0.5], TARGET)
    for source, target in ((1.5, 0.5), (0.5, -0.1), (np.nan, 0.5)):
        with pytest.raises(ValueError, match="one number is the share of the positive class, between 0 and 1"):
            adjust_prior(0.0, source, target)
    for source, target in ((0, 0.5), (1, 0.5), (1, 0), (0, 1)):
        with pytest.raises(ValueError, match=f"source was {source} never saw both classes and knows nothing of"):
            adjust_prior(0.0, source, target)


def test_priors_of_another_shape_or_kind_are_refused():
    formula = inspect.unwrap(adjust_prior)
    with pytest.raises(ValueError, match=r"source is one number per class, \(3,\), or .*\(2, 3\); source is \(2,\)"):
        formula(ROWS, [0.5, 0.5], TARGET)
    with pytest.raises(ValueError, match=r"target is one number per class.*target is \(3, 3\)"):
        formula(ROWS, SOURCE, np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"target is one number per class.*target is \(1, 2, 3\)"):
        formula(ROWS, SOURCE, np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match=r"both the share of the positive class; source is \(3,\), target is \(\)"):
        formula(ROWS, SOURCE, 0.5)
    with pytest.raises(TypeError, match="adjust_prior: source is a number, or one per class, not bool"):
        formula(ROWS, np.array([True, False, True]), TARGET)
    with pytest.raises(ValueError, match="this is a single number"):
        formula(1.0, SOURCE, TARGET)


def test_jax_poisons_the_rows_that_it_may_not_refuse():
    JAX_JIT.require()
    sources = np.array([[0.5, 0.0, 0.5], [0.5, 0.25, 0.25], [0.5, -1.0, 0.5], [0.5, np.inf, 0.5]])
    got = JAX_JIT.run(lambda z, s: adjust_prior(z, s, JAX_JIT.of([1.0, 0.5, 1.0])), np.zeros((4, 3)), sources)
    np.testing.assert_array_equal(np.isnan(got).all(-1), [True, False, True, True])
    assert np.isfinite(got[1]).all()
    shares = JAX_JIT.run(lambda s: adjust_prior(JAX_JIT.of([0.0]), s, JAX_JIT.of(0.5)), 0.0)
    assert np.isnan(shares).all()
    weights = JAX_JIT.run(adjust_class_weight, np.zeros((2, 2)), np.array([[0.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_array_equal(np.isnan(weights), [[True, True], [False, False]])


def test_the_weights_of_a_loss_are_undone(library):
    """sum_k w_k p_k (-log q_k) is least at q proportional to w p."""
    p, w = np.array([[0.7, 0.2, 0.1]]), np.array([1.0, 3.0, 8.0])
    got = library.run(lambda z: softmax(adjust_class_weight(z, w)), np.log(p * w / (p * w).sum()))
    np.testing.assert_allclose(got, p, rtol=8 * library.eps)


def test_a_pos_weight_is_undone_for_each_label(library):
    """w p softplus(-z) + (1 - p) softplus(z) is least at sigmoid(z) = w p / (w p + 1 - p)."""
    p, w = np.array([[0.3, 0.01], [0.5, 0.9]]), np.array([4.0, 50.0])
    trained = np.log(w * p / (1 - p))
    got = library.run(lambda z: sigmoid(adjust_class_weight(z, w)), trained)
    np.testing.assert_allclose(got, p, rtol=16 * library.eps)
    one = library.run(lambda z: sigmoid(adjust_class_weight(z, 4.0)), trained[:, 0])
    np.testing.assert_allclose(one, p[:, 0], rtol=16 * library.eps)


def test_what_is_no_class_weight_is_refused():
    for weight in (0.0, -1.0, np.inf, np.nan, [1.0, 0.0, 1.0]):
        with pytest.raises(ValueError, match="adjust_class_weight: class_weight is finite and above 0, not "):
            adjust_class_weight(ROWS, weight)
    with pytest.raises(ValueError, match=r"class_weight is one number per class, \(3,\).*class_weight is \(2,\)"):
        adjust_class_weight(ROWS, [1.0, 2.0])


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(half):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = TORCH.of(ROWS).to(getattr(torch, half))
    for give in (lambda z: adjust_prior(z, SOURCE, TARGET), lambda z: adjust_class_weight(z, SOURCE)):
        assert torch.equal(give(x), give(x.float()).to(x.dtype))


def test_float64_priors_do_not_widen_the_logits(library):
    x = library.of(ROWS)
    for got in (adjust_prior(x, SOURCE, TARGET), adjust_prior(x, 0.2, 0.3), adjust_class_weight(x, SOURCE)):
        assert got.dtype == x.dtype
