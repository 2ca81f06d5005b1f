"""Losses of ordered classes: by hand, in the tails where the published one is clamped, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import reference
import reference_margin
from arrays import JAX_JIT, TORCH
from lastlayer.loss import cross_entropy
from lastlayer.loss.ordinal import coral, cumulative_link

STEPS = [-1.0, 0.5, 3.0]
SCORES = np.array([-700.0, -50.0, -3.0, 0.0, 1.0, 2.0, 40.0, 700.0])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def exact(score, target, steps=STEPS):
    with mpmath.workdps(1000):
        return float(reference_margin.cumulative_link([mpmath.mpf(float(score))], [target], steps)[0])


def test_values_by_the_textbook(library):
    """In float64, through probabilities, where nothing is extreme."""
    s = np.array([-2.0, 0.0, 1.0, 2.5])
    below = np.concatenate([np.zeros((4, 1)), sigmoid(np.array(STEPS) - s[:, None]), np.ones((4, 1))], axis=1)
    probs = np.diff(below, axis=1)
    np.testing.assert_allclose(probs.sum(1), 1)
    for level in range(4):
        got = library.run(lambda x, y: cumulative_link(x, y, STEPS), s, np.full(4, level))
        np.testing.assert_allclose(got, -np.log(probs[:, level]), rtol=32 * library.eps)
    z = np.array([[2.0, 0.5, -1.0]])
    for level, signs in enumerate(([1, 1, 1], [-1, 1, 1], [-1, -1, 1], [-1, -1, -1])):
        want = -np.log(sigmoid(-z * signs)).sum(1)
        np.testing.assert_allclose(library.run(coral, z, [level]), want, rtol=8 * library.eps)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_tails_a_clamp_of_1e_8_loses_value_and_gradient_of_a_cumulative_link(level, differentiable):
    """-log(clamp(P(y), 1e-8)), as ordinal regression for deep networks is published: 18.4 at most, and no slope."""
    target = np.full(len(SCORES), level)

    def loss(s, y):
        return cumulative_link(s, y, STEPS)

    want = [exact(s, level) for s in SCORES]
    tiny = float(np.finfo(differentiable.dtype).tiny)
    np.testing.assert_allclose(differentiable.run(loss, SCORES, target), want, rtol=5 * differentiable.eps, atol=tiny)
    lower, upper = ([-np.inf, *STEPS, np.inf][level + side] - SCORES for side in (0, 1))
    with np.errstate(over="ignore"):
        slope = sigmoid(-upper) - sigmoid(lower)
    got = differentiable.gradient(loss, SCORES, target)
    np.testing.assert_allclose(got, slope, rtol=1e-6, atol=4 * differentiable.eps)
    if differentiable is TORCH and level == 1:
        torch = pytest.importorskip("torch")
        s = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
        published = -torch.log(torch.clamp(torch.sigmoid(0.5 - s) - torch.sigmoid(-1.0 - s), 1e-8, 1))
        (lost,) = torch.autograd.grad(published, s)
        assert published < 18.5
        assert lost == 0
        assert want[6] > 39
        assert got[6] == pytest.approx(1)


def test_tails_keep_what_a_score_less_a_threshold_rounds(library):
    """Beyond the last threshold, or before the first, the loss is exp(-40): rounding the distance is 20 units of it."""
    scores, steps = np.array([70.1, -70.1]).astype(library.dtype).astype(float), [-30.7, 30.3]
    got = library.run(lambda s, y: cumulative_link(s, y, steps), scores, [2, 0])
    want = [exact(s, level, steps) for s, level in zip(scores, (2, 0), strict=True)]
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)


def test_tails_thresholds_that_nearly_meet(library):
    """The difference of two sigmoids has no digits left there."""
    steps = [0.25, 0.25 + 2.0**-20]
    s = np.array([0.0, 30.0, -30.0])
    got = library.run(lambda x, y: cumulative_link(x, y, steps), s, [1, 1, 1])
    np.testing.assert_allclose(got, [exact(v, 1, steps) for v in s], rtol=4 * library.eps)
    with np.errstate(divide="ignore"):
        published = -np.log(sigmoid(np.float32(steps[1]) - np.float32(30)) - sigmoid(np.float32(0.25) - np.float32(30)))
    assert abs(published / exact(30.0, 1, steps) - 1) > 1e-3


def test_tails_gradients_of_thresholds():
    """A wide threshold still learns: the published product underflows at 700."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    for s, y, want in (
        (700.0, 0, [-1, 0, 0]),
        (-700.0, 3, [0, 0, 1]),
        (700.0, 1, [1 / np.expm1(1.5), -1 - 1 / np.expm1(1.5), 0]),
    ):
        steps = TORCH.of(STEPS).requires_grad_()
        loss = cumulative_link(TORCH.of([s]), torch.tensor([y]), steps)
        (slope,) = torch.autograd.grad(loss.sum(), steps)
        np.testing.assert_allclose(slope, want, rtol=1e-12)
    steps = TORCH.of(STEPS).requires_grad_()
    s = TORCH.of([0.5, -1.5, 2.0, 1.0]).requires_grad_()

    def both(score, thresholds):
        return cumulative_link(score, torch.tensor([0, 1, 2, 3]), thresholds)

    assert torch.autograd.gradcheck(both, (s, steps))
    assert torch.autograd.gradgradcheck(both, (s, steps))


def test_float64_thresholds_of_float32_scores_keep_their_digits():
    steps = [0.1, 0.1 + 1e-9]
    got = cumulative_link(np.float32([2.0]), np.array([1]), np.array(steps))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [exact(2.0, 1, steps)], rtol=1e-6)


def test_scores_at_infinity_and_nan(differentiable):
    s = [np.inf, np.inf, -np.inf, -np.inf, np.nan, 0.0]
    target = [3, 1, 0, 3, 0, 0]

    def loss(x, y):
        return cumulative_link(x, y, STEPS)

    got = differentiable.run(loss, s, target)
    np.testing.assert_allclose(got, [0, np.inf, 0, np.inf, np.nan, np.log1p(np.e)], rtol=4 * differentiable.eps)
    slopes = differentiable.gradient(loss, s, target)
    np.testing.assert_allclose(slopes[:5], [0, 1, 0, -1, np.nan], rtol=4 * differentiable.eps)


def test_two_classes_are_one_logit_and_one_class_is_certain(library):
    target = np.array([0, 1])
    both = library.run(lambda z, y: coral(z, y), [[1.5], [1.5]], target)
    linked = library.run(lambda s, y: cumulative_link(s, y, [0.0]), [1.5, 1.5], target)
    want = library.run(cross_entropy, [[0.0, 1.5]] * 2, target)
    np.testing.assert_allclose(both, want, rtol=4 * library.eps)
    np.testing.assert_allclose(linked, want, rtol=4 * library.eps)
    np.testing.assert_array_equal(library.run(lambda s, y: cumulative_link(s, y, []), [1.5, 1.5], [0, 0]), [0, 0])


def test_a_row_that_does_not_count_costs_nothing_whatever_it_holds(differentiable):
    valid, target = np.array([False, True]), np.array([-100, 1])
    for loss, x in (
        (lambda s, y: cumulative_link(s, y, STEPS, valid=valid), np.array([np.nan, 1.0])),
        (lambda z, y: coral(z, y, valid=valid), np.array([[np.nan, np.inf], [1.0, 0.5]])),
    ):
        got, slopes = differentiable.run(loss, x, target), differentiable.gradient(loss, x, target)
        assert got[0] == 0
        assert got[1] > 0
        assert (slopes[0] == 0).all()
        assert slopes[1].any()


def test_sure_steps_of_coral(library):
    rows = [[np.inf, -np.inf], [np.inf, -np.inf], [np.nan, 0.0]]
    np.testing.assert_array_equal(library.run(coral, rows, [1, 0, 0]), [0, np.inf, np.nan])


def test_half_precision_comes_out_in_float32():
    for got in (
        cumulative_link(np.float16([2.0]), np.array([1]), np.float16(STEPS)),
        coral(np.float16([[2.0, 1.0]]), np.array([1])),
    ):
        assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("steps", "settings", "target", "sentence"),
    [
        ([1.0, 0.0], {}, [0], "thresholds are finite and increasing"),
        ([1.0, 1.0], {}, [0], "thresholds are finite and increasing"),
        ([0.0, np.nan], {}, [0], "thresholds are finite and increasing"),
        ([0.0, np.inf], {}, [0], "thresholds are finite and increasing"),
        ([[0.0, 1.0]], {}, [0], r"one number per step, \(classes - 1,\); they are \(1, 2\)"),
        ([0.0, 1.0], {}, [3], "target 3 is not one of the 3 classes"),
        ([0.0, 1.0], {}, [-100], "valid=target != -100"),
        ([0.0, 1.0], {}, [0, 1], "one target per"),
        ([0.0, 1.0], {"link": "logti"}, [0], "Did you mean 'logit'"),
        ([0.0, 1.0], {"valid": np.array([True, True])}, [0], "one valid per"),
    ],
)
def test_wrong_calls(steps, settings, target, sentence):
    with pytest.raises(ValueError, match=f"cumulative_link: .*{sentence}"):
        inspect.unwrap(cumulative_link)(np.array([0.5]), np.array(target), np.array(steps), **settings)


def test_wrong_targets_of_coral():
    for target, sentence in (([3], "target 3 is not one of the 3 classes"), ([0, 1], "one target per row")):
        with pytest.raises(ValueError, match=f"coral: {sentence}"):
            inspect.unwrap(coral)(np.array([[0.5, 0.0]]), np.array(target))


def test_where_nobody_may_look_what_is_wrong_is_nan():
    JAX_JIT.require()
    got = JAX_JIT.run(lambda s, t: cumulative_link(s, np.array([0, 0]), t), [0.0, 1.0], [1.0, 0.0])
    assert np.isnan(got).all()
    got = JAX_JIT.run(lambda s, y: cumulative_link(s, y, STEPS), [0.0, 1.0], np.array([4, 0]))
    np.testing.assert_array_equal(np.isnan(got), [True, False])
    got = JAX_JIT.run(coral, [[0.0, 1.0]] * 2, np.array([3, 2]))
    np.testing.assert_array_equal(np.isnan(got), [True, False])


def test_second_derivatives_of_coral():
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = TORCH.of([[0.5, -1.0], [2.0, 0.25]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: coral(x, torch.tensor([0, 1])), z)
    assert torch.autograd.gradgradcheck(lambda x: coral(x, torch.tensor([0, 1])), z)


def test_the_reference_is_a_distribution():
    shares = [mpmath.exp(-reference_margin.cumulative_link(reference.exact([0.3]), [y], STEPS)[0]) for y in range(4)]
    assert abs(mpmath.fsum(shares) - 1) < mpmath.mpf(10) ** -100
