"""Fenchel-Young losses: by their definition, where the published sum cancels, and the wrong calls."""

import inspect

import mpmath
import numpy as np
import pytest

import reference
import reference_margin
from arrays import JAX_JIT, TORCH
from lastlayer.kernels import formulas
from lastlayer.loss import cross_entropy
from lastlayer.loss.fenchel_young import fenchel_young
from lastlayer.transform import entmax, sparsemax

ROWS = np.array([[2.0, 1.0, 0.5], [30.0, -10.0, 0.0], [0.0, 0.0, 60.0], [-3.0, 5.0, 4.75], [0.0, 0.25, 0.125]])
TARGET = np.array([0, 0, 1, 2, 1])
ALPHAS = [1.001, 1.25, 1.5, 1.9, 2.0, 2.5, 6.0]


def of(alpha, target=None, valid=None):
    def loss(z, y=target):
        return fenchel_young(z, y, regularizer="entmax", alpha=alpha, valid=valid)

    return loss


def exact(row, target, alpha):
    return float(reference_margin.fenchel_young(reference.exact(row), target, alpha=alpha)[0])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_definition(alpha, library):
    want = [exact(row, y, alpha) for row, y in zip(ROWS, TARGET, strict=True)]
    got = library.run(of(alpha), ROWS, TARGET)
    np.testing.assert_allclose(got, want, rtol=32 * library.eps)


def test_the_huber_loss_of_two_classes(library):
    """Sparsemax of two classes: (1 - lead)^2 / 4 within a lead of 1, -lead below, 0 above (Martins & Astudillo)."""
    lead = np.array([-700.0, -1.0, -0.5, 0.0, 0.75, 1.0, 30.0])
    rows = np.stack([lead, 0 * lead], axis=-1)
    want = np.where(lead >= 1, 0, np.where(lead <= -1, -lead, (1 - lead) ** 2 / 4))
    got = library.run(lambda z, y: fenchel_young(z, y, regularizer="sparsemax"), rows, np.zeros(7, int))
    np.testing.assert_allclose(got, want, rtol=4 * library.eps)


def test_the_words_name_one_family(differentiable):
    for settings, other in (
        ({"regularizer": "softmax"}, cross_entropy),
        ({"regularizer": "entmax", "alpha": 1.0}, cross_entropy),
        ({"regularizer": "sparsemax"}, of(2.0)),
        ({"regularizer": "entmax"}, of(1.5)),
    ):
        for measure in (differentiable.run, differentiable.gradient):
            got = measure(lambda z, y, settings=settings: fenchel_young(z, y, **settings), ROWS, TARGET)
            with formulas():
                np.testing.assert_array_equal(got, measure(other, ROWS, TARGET))


def test_the_definition_where_the_others_have_most_at_a_large_alpha(library):
    rows, target = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.125, 0.0625, 0.0]]), [1, 0]
    want = [exact(row, y, 12.0) for row, y in zip(rows, target, strict=True)]
    np.testing.assert_allclose(library.run(of(12.0), rows, target), want, rtol=16 * library.eps)


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_the_gradient_is_p_minus_onehot(alpha, differentiable):
    p = entmax(ROWS, alpha)
    got = differentiable.gradient(of(alpha), ROWS, TARGET)
    np.testing.assert_allclose(got, p - np.eye(3)[TARGET], rtol=0, atol=16 * differentiable.eps)


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_exactly_0_where_the_margin_is_met(alpha, differentiable):
    lead = 1 / (alpha - 1)
    rows = np.array([[lead, 0.0, -1.0], [lead + 700, 0.0, 0.0], [3 + lead, 3.0, -np.inf]])
    got = differentiable.run(of(alpha), rows, [0, 0, 0])
    slopes = differentiable.gradient(of(alpha), rows, [0, 0, 0])
    np.testing.assert_array_equal(got, np.zeros(3))
    np.testing.assert_array_equal(slopes, np.zeros((3, 3)))
    assert (differentiable.run(of(alpha), rows - [[lead / 64, 0, 0]], [0, 0, 0])[[0, 2]] > 0).all()


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_tails_the_published_sum_cancels_just_inside_the_margin(alpha, library):
    """<p, z> - Omega(p) - z_t, as the entmax package has it, is a difference of numbers of the size of the logits."""
    row = np.float32([100 + 1 / (alpha - 1) - 0.0137, 100.0, 99.0]).astype(np.float64)
    want = exact(row, 0, alpha)
    got = library.run(of(alpha), [row], [0])
    np.testing.assert_allclose(got, [want], rtol=16 * library.eps / (alpha - 1))
    p, z = entmax(row.astype(np.float32), alpha), row.astype(np.float32)
    published = (p * z).sum() - ((p**alpha - p) / (alpha * (alpha - 1))).sum() - z[0]
    assert abs(published / want - 1) > 1e-3


def test_tails_a_lost_row_at_700(differentiable):
    rows = np.array([[700.0, 0.0, -700.0], [0.0, 700.0, 700.0]])
    target = np.array([2, 0])
    for alpha in (1.1, 1.5, 2.0):
        want = [exact(row, y, alpha) for row, y in zip(rows, target, strict=True)]
        np.testing.assert_allclose(differentiable.run(of(alpha), rows, target), want, rtol=4 * differentiable.eps)
        slopes = differentiable.gradient(of(alpha), rows, target)
        np.testing.assert_allclose(slopes, [[1, 0, -1], [-1, 0.5, 0.5]], rtol=4 * differentiable.eps)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_special_rows(alpha, differentiable):
    rows = np.array(
        [[0.5, -np.inf, 0.25], [-np.inf] * 3, [np.inf, 0.0, np.inf], [np.nan, 0.0, 1.0], [0.5, -np.inf, 0.25]]
    )
    target = np.array([0, 0, 2, 1, 1])
    got, slopes = differentiable.run(of(alpha), rows, target), differentiable.gradient(of(alpha), rows, target)
    shared = (1 - 2 * 0.5**alpha) / (alpha * (alpha - 1))
    want = [exact([0.5, 0.25], 0, alpha), np.nan, shared, np.nan, np.inf]
    np.testing.assert_allclose(got, want, rtol=16 * differentiable.eps)
    p = entmax(np.array([0.5, 0.25]), alpha)
    np.testing.assert_allclose(slopes[0], [p[0] - 1, 0, p[1]], rtol=32 * differentiable.eps)
    np.testing.assert_array_equal(slopes[1], np.zeros(3))
    np.testing.assert_allclose(slopes[2], [0.5, 0, -0.5], rtol=4 * differentiable.eps)
    assert np.isnan(slopes[3]).all()
    np.testing.assert_allclose(slopes[4], [p[0], -1, p[1]], rtol=16 * differentiable.eps)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_a_row_that_does_not_count_costs_nothing_whatever_it_holds(alpha, differentiable):
    rows, target = np.array([[np.nan, np.inf, 2.0], [1.0, 2.0, 1.5]]), np.array([-100, 2])
    loss = of(alpha, valid=np.array([False, True]))
    got, slopes = differentiable.run(loss, rows, target), differentiable.gradient(loss, rows, target)
    assert got[0] == 0
    assert got[1] > 0
    assert (slopes[0] == 0).all()
    assert slopes[1].any()


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_second_derivatives(alpha):
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = TORCH.of([[0.5, 0.25, 0.3], [0.1, 0.9, -0.2], [0.0, 0.03, -9.0]]).requires_grad_()
    target = torch.tensor([0, 2, 1])
    assert torch.autograd.gradcheck(of(alpha, target), z)
    assert torch.autograd.gradgradcheck(of(alpha, target), z)


def test_the_minimum_over_scores_is_the_teacher():
    """What it is for: the mean loss of labels drawn 3 : 1 is least where sparsemax is (3/4, 1/4)."""
    z = np.linspace(-1, 1, 801)
    rows = np.stack([z, 0 * z], axis=-1)
    cost = [fenchel_young(rows, np.full(801, y), regularizer="sparsemax") for y in (0, 1)]
    best = rows[np.argmin(0.75 * cost[0] + 0.25 * cost[1])]
    np.testing.assert_allclose(sparsemax(best), [0.75, 0.25], atol=1e-9)


def test_half_precision_comes_out_in_float32():
    got = fenchel_young(np.float16([[1.0, 0.5]]), np.array([0]), regularizer="sparsemax")
    assert got.dtype == np.float32
    assert got[0] == 0.0625


@pytest.mark.parametrize(
    ("settings", "target", "sentence"),
    [
        ({"regularizer": "entmax", "alpha": 0.5}, [0], "alpha is a finite number of at least 1, not 0.5"),
        ({"regularizer": "entmax", "alpha": np.inf}, [0], "alpha is a finite number of at least 1"),
        ({"regularizer": "entmax", "alpha": np.nan}, [0], "alpha is a finite number of at least 1"),
        ({"regularizer": "sparsmax"}, [0], "Did you mean 'sparsemax'"),
        ({}, [3], "target 3 is not one of the 3 classes"),
        ({"regularizer": "sparsemax"}, [-100], "valid=target != -100"),
        ({}, [0.0], "an integer"),
        ({}, [0, 1], "one target per row of logits"),
    ],
)
def test_wrong_calls(settings, target, sentence):
    with pytest.raises(ValueError, match=f"fenchel_young: .*{sentence}"):
        inspect.unwrap(fenchel_young)(np.zeros((1, 3)), np.array(target), **settings)


def test_where_nobody_may_look_a_wrong_target_makes_its_row_nan():
    JAX_JIT.require()
    for alpha in (1.0, 1.5, 2.0):
        got = JAX_JIT.run(of(alpha), [[0.0, 1.0]] * 2, np.array([2, 0]))
        np.testing.assert_array_equal(np.isnan(got), [True, False])


def test_the_reference_is_the_maximum():
    """The definition itself, over a grid of the simplex."""
    z, a = [mpmath.mpf("0.3"), mpmath.mpf("0.1")], mpmath.mpf("1.5")
    shares = [mpmath.mpf(i) / 4000 for i in range(4001)]
    found = max(p * z[0] + (1 - p) * z[1] + (1 - p**a - (1 - p) ** a) / (a * (a - 1)) for p in shares) - z[0]
    assert abs(found - reference_margin.fenchel_young(z, 0)[0]) < 1e-7


def of_sets(row, index, k):
    """The definition: half the squared distance to the set, less half that to the polytope; and p less the set."""
    z = reference.exact(row)
    low, high = min(z) - 1, max(z)
    for _ in range(400):
        middle = (low + high) / 2
        mass = mpmath.fsum(min(max(v - middle, 0), 1) for v in z)
        low, high = (middle, high) if mass > k else (low, middle)
    p = [min(max(v - low, mpmath.mpf(0)), mpmath.mpf(1)) for v in z]
    y = [int(i in list(index)) for i in range(len(z))]
    distance = [mpmath.fsum((a - v) ** 2 for a, v in zip(point, z, strict=True)) / 2 for point in (y, p)]
    return float(distance[0] - distance[1]), [float(a - b) for a, b in zip(p, y, strict=True)]


SETS = np.array(
    [[2.0, 1.5, 1.25, 0.5, -3.0], [0.0, 0.0, 0.0, 0.0, 0.0], [30.0, -2.0, 0.25, 1.0, 0.5], [3.0, 3.5, 0, 0, 0]]
)
CHOSEN = {1: np.array([[2], [0], [1], [1]]), 2: np.array([[0, 3], [4, 1], [4, 1], [0, 1]])}


@pytest.mark.parametrize("k", [1, 2])
def test_top_k_is_the_distance_to_the_polytope_of_sets(k, differentiable):
    def loss(z, y):
        return fenchel_young(z, y, regularizer="top_k")

    wanted = [of_sets(row, index, k) for row, index in zip(SETS, CHOSEN[k], strict=True)]
    got = differentiable.run(loss, SETS, CHOSEN[k])
    np.testing.assert_allclose(got, [value for value, _ in wanted], rtol=16 * differentiable.eps)
    slopes = differentiable.gradient(loss, SETS, CHOSEN[k])
    np.testing.assert_allclose(slopes, [slope for _, slope in wanted], rtol=0, atol=8 * differentiable.eps)
    if k == 2:
        assert got[3] == 0  # both lead the others by more than 1
        assert (slopes[3] == 0).all()
    else:
        alone = differentiable.run(lambda z, y: fenchel_young(z, y, regularizer="sparsemax"), SETS, CHOSEN[1][:, 0])
        np.testing.assert_allclose(got, alone, rtol=16 * differentiable.eps)


def test_top_k_of_all_classes_has_nothing_to_learn(differentiable):
    rows, every = np.array([[2.0, -5.0, 0.5], [0.0, 0.0, 40.0]]), np.array([[0, 1, 2], [2, 0, 1]])

    def loss(z, y):
        return fenchel_young(z, y, regularizer="top_k")

    np.testing.assert_array_equal(differentiable.run(loss, rows, every), [0, 0])
    np.testing.assert_array_equal(differentiable.gradient(loss, rows, every), np.zeros((2, 3)))


def test_top_k_of_special_rows(differentiable):
    inf, nan = np.inf, np.nan
    rows = [[1.0, -inf, 0.5, 0.25], [1.0, -inf, 0.5, 0.25], [-inf] * 4, [nan, 0.0, 1.0, 2.0], [nan] * 4]
    rows = np.array([*rows, [1.0, -inf, -inf, -inf]])  # the last has fewer classes than the set
    index = np.array([[0, 2], [0, 1], [0, 1], [1, 2], [-100, -100], [0, 1]])
    valid = np.array([True, True, True, True, False, True])

    def loss(z, y):
        return fenchel_young(z, y, regularizer="top_k", valid=valid)

    got, slopes = differentiable.run(loss, rows, index), differentiable.gradient(loss, rows, index)
    without, slope = of_sets([1.0, 0.5, 0.25], [0, 1], 2)
    np.testing.assert_allclose(got[0], without, rtol=16 * differentiable.eps)
    np.testing.assert_allclose(slopes[0], np.insert(slope, 1, 0.0), atol=8 * differentiable.eps)
    np.testing.assert_array_equal(got[1:], [inf, nan, nan, 0, inf])
    assert (slopes[[2, 4]] == 0).all()
    assert np.isnan(slopes[3]).all()
    assert (slopes[5, [0, 2, 3]] == 0).all()


def test_top_k_has_second_derivatives():
    torch = pytest.importorskip("torch", reason="pip install torch")
    z = torch.tensor([[2.0, 1.5, 1.3, 0.4, -3.0], [2.0, 1.5, 1.3, 1.1, -3.0]], dtype=torch.float64, requires_grad=True)

    def loss(x):
        return fenchel_young(x, np.array([[0, 3], [0, 3]]), regularizer="top_k")  # two classes inside, and three

    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ([0, 1, 2, 3], r"top_k takes the k classes of each row, \(\*batch, k\)"),
        ([[0, 0]] * 4, "target names each class of a row once; one is named twice"),
        ([[0, 7]] * 4, "target 7 is not one of the 5 classes"),
    ],
)
def test_wrong_sets(index, sentence):
    with pytest.raises(ValueError, match=f"^fenchel_young: .*{sentence}"):
        inspect.unwrap(fenchel_young)(SETS, np.array(index), regularizer="top_k")
