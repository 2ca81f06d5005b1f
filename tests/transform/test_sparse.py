"""sparsemax and entmax: closed forms, published examples, known failures, derivatives, limits in alpha."""

import functools
import math

import mpmath
import numpy as np
import pytest

from arrays import Library
from lastlayer.transform.softmax import softmax
from lastlayer.transform.sparse import entmax, sparsemax

NUMPY = Library("numpy", "numpy", np.array)
NUMPY_32 = Library("numpy-float32", "numpy", np.array, dtype="float32")
ALPHAS = [1.0001, 1.1, 1.25, 4 / 3, 1.5, 1.9, 2, 2.3, 3.0, 10]


@functools.cache
def exact(row, alpha):
    """The probabilities of a tuple of logits with 60 digits, the threshold by bisection."""
    with mpmath.workdps(60):
        rate = mpmath.mpf(alpha) - 1
        y = [rate * mpmath.mpf(float(v)) for v in row]

        def raised(threshold):
            return [max(v - threshold, 0) ** (1 / rate) for v in y]

        low, high = max(y) - 1, max(y)
        for _ in range(180):
            middle = (low + high) / 2
            low, high = (middle, high) if mpmath.fsum(raised(middle)) > 1 else (low, middle)
        return raised(low)


def worst(got, row, alpha):
    """The largest error of a row in units in the last place: of each entry, and of the largest one."""
    want = exact(tuple(row), alpha)
    error = np.array([float(abs(mpmath.mpf(float(p)) - q)) for p, q in zip(got, want, strict=True)])
    assert all((p == 0) == (q == 0) for p, q in zip(got, want, strict=True))
    inside, unit = got > 0, np.spacing(got)
    return (error[inside] / unit[inside]).max(), error.max() / unit.max()


def closed_jacobian(p, alpha):
    """diag(s) - s s^T / sum(s), s = p^(2 - alpha) on the support (Peters et al. 2019, eq. 14)."""
    s = np.where(p > 0, np.where(p > 0, p, 1) ** (2.0 - alpha), 0)
    return np.diag(s) - np.outer(s, s) / s.sum()


def test_sparsemax_of_two_classes_is_the_hard_sigmoid(library):
    gap = np.array([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 7.0])
    got = library.run(sparsemax, np.stack([gap, np.zeros(7)], axis=-1))
    first = np.clip((gap + 1) / 2, 0, 1)
    np.testing.assert_array_equal(got, np.stack([first, 1 - first], axis=-1))


def test_entmax_of_two_classes_is_the_root_of_a_quadratic(library):
    """alpha = 1.5: with u^2 + v^2 = 1 and u - v = gap / 2, u = (gap / 2 + sqrt(2 - gap^2 / 4)) / 2."""
    gap = np.array([0.0, 0.25, 1.0, 1.75, 2.0, 5.0])
    got = library.run(lambda z: entmax(z, 1.5), np.stack([gap, np.zeros(6)], axis=-1))
    half = np.minimum(gap, 2) / 2
    first = ((half + np.sqrt(2 - half**2)) / 2) ** 2
    np.testing.assert_allclose(got, np.stack([first, 1 - first], axis=-1), rtol=0, atol=2 * library.eps)
    assert (got[4:, 1] == 0).all()


def test_published_examples(library):
    """A row worked by hand with Algorithm 1 of Martins & Astudillo; Peters et al.: the top class alone from a gap of
    1 / (alpha - 1) on."""
    np.testing.assert_allclose(library.run(sparsemax, [0.5, 0.25, 0.0, -1.0]), [7 / 12, 4 / 12, 1 / 12, 0], rtol=1e-6)
    for alpha in (1.25, 1.5, 2, 3):
        got = library.run(lambda z, a=alpha: entmax(z, a), [1 / (alpha - 1), 0.0])
        np.testing.assert_array_equal(got, [1, 0])
        assert library.run(lambda z, a=alpha: entmax(z, a), [0.9375 / (alpha - 1), 0.0])[1] > 0


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("library", [NUMPY, NUMPY_32], indirect=True, ids=str)
def test_digits(alpha, library):
    """Entries to half a unit at alpha 1.25, 1.5 and 2; for others to 8 of the row's largest."""
    rng = np.random.default_rng(0)
    for classes, scale in [(2, 1), (3, 0.3), (10, 1), (10, 0.1), (25, 0.2), (25, 3)]:
        row = rng.normal(0, scale, classes).astype(np.float32).astype(np.float64)
        of_entry, of_row = worst(entmax(library.of(row), alpha), row, alpha)
        assert of_row <= 8
        assert of_entry <= (0.51 if alpha in (1.25, 1.5, 2) else 400)


@pytest.mark.parametrize("alpha", [1.5, 1.8, 2, 3, 4.0])
def test_a_class_just_inside_the_support(alpha):
    """A threshold rounded to the dtype leaves a class eps^(1 / (alpha - 1)) off: 6e-6 at alpha = 4."""
    for inside in (1e-3, 1e-9, 1e-13):
        row = np.array([0.3, 0.3 - (1 - inside) / (alpha - 1), -50.0])
        assert worst(entmax(row, alpha), row, alpha)[1] <= 4
    assert entmax([1.0, 1e-20], 2)[1] == 0.5e-20  # what 1e-20 - 1 rounds away


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_sum_of_1_for_very_many_classes(alpha, library):
    classes = 256_000 if library.name in ("numpy", "torch-float32") and alpha in (1.5, 2, 10) else 3000
    rng = np.random.default_rng(1)
    rows = np.stack([rng.normal(0, 1, classes), np.zeros(classes), -1 + 1e-6 * rng.random(classes)])
    rows[2, 0] = 0
    got = library.run(lambda z: entmax(z, alpha), rows)
    np.testing.assert_allclose([math.fsum(row) for row in got], 1, rtol=0, atol=4 * library.eps)
    np.testing.assert_allclose(got[1], 1 / classes, rtol=32 * library.eps)


def test_alpha_1_is_softmax_and_2_is_sparsemax(library):
    rows = np.array([[1.0, 0.0, -2.0, -np.inf], [0.5, 0.5, 0.5, 0.25]])
    np.testing.assert_array_equal(library.run(lambda z: entmax(z, 1), rows), library.run(softmax, rows))
    np.testing.assert_array_equal(library.run(lambda z: entmax(z, 2.0), rows), library.run(sparsemax, rows))


@pytest.mark.parametrize("near", [1 + 1e-4, 1 + 1e-9, 1 + 2.0**-52])
def test_alpha_near_1_goes_to_softmax(near, library):
    """log p differs by (alpha - 1) / 2 times the square of its size, which is at most 64 here."""
    rows = np.array([[1.0, 0.0, -2.0, 0.5], [0.0, -8.0, -4.0, -np.inf]])
    got, want = library.run(lambda z: entmax(z, near), rows), library.run(softmax, rows)
    np.testing.assert_allclose(got, want, rtol=64 * (near - 1) + 16 * library.eps, atol=0)


def test_alpha_beside_2_goes_to_sparsemax(library):
    rows = np.array([[0.5, 0.25, 0.0, -1.0], [0.9, 0.0, 0.0, 0.25]])
    want = library.run(sparsemax, rows)
    for near in (2 - 1e-7, 2 + 1e-7):
        got = library.run(lambda z, a=near: entmax(z, a), rows)
        np.testing.assert_allclose(got, want, atol=1e-6 + 4 * library.eps)


def test_a_huge_alpha_leaves_the_largest_classes(library):
    for alpha in (1e6, 1e300, 10**400):
        got = library.run(lambda z, a=alpha: entmax(z, a), [3.0, 1.0, 3.0, 2.875])
        np.testing.assert_allclose(got, [0.5, 0, 0.5, 0], rtol=2 * library.eps)


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2, 3])
def test_special_values(alpha, library):
    """deep-spin/entmax#9: -inf gave nan; #19: a row of nothing but -inf gave an index error."""
    inf, nan = np.inf, np.nan
    rows = [[0.25, -inf, 0.0], [-inf, -inf, -inf], [inf, 0.0, inf], [nan, 0.0, 1.0], [inf, nan, 0.0], [-inf, 4.0, -inf]]
    got = library.run(lambda z: entmax(z, alpha), np.array(rows))
    np.testing.assert_array_equal(got[0, [0, 2]], library.run(lambda z: entmax(z, alpha), [0.25, 0.0]))
    assert got[0, 1] == 0
    assert np.isnan(got[[1, 3, 4]]).all()
    np.testing.assert_allclose(got[2], [0.5, 0, 0.5], rtol=2 * library.eps)
    np.testing.assert_array_equal(got[5], [0, 1, 0])
    np.testing.assert_array_equal(library.run(lambda z: entmax(z, alpha), [[7.0], [-1e30]]), [[1], [1]])


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2, 3])
def test_ties_share_alike(alpha, library):
    got = library.run(lambda z: entmax(z, alpha), [[2.0, 2.0, -9e9], [0.125, 0.5, 0.125]])
    np.testing.assert_allclose(got[0], [0.5, 0.5, 0], rtol=2 * library.eps)
    assert got[1, 0] == got[1, 2]


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2, 3])
def test_huge_logits_and_shifts(alpha, library):
    """tensorflow/addons#2314: sparsemax was nan at 1e8."""
    row = np.array([0.5, 0.25, 0.0, -1.0])
    here = library.run(lambda z: entmax(z, alpha), row)
    np.testing.assert_array_equal(library.run(lambda z: entmax(z, alpha), row + 1024), here)
    np.testing.assert_array_equal(library.run(lambda z: entmax(z, alpha), row - 65_536), here)
    for size in (1e8, 1e30):
        np.testing.assert_array_equal(library.run(lambda z: entmax(z, alpha), [size, -size, 0.0]), [1, 0, 0])
        got = library.run(lambda z: entmax(z, alpha), [-size, -size, -3 * size])
        np.testing.assert_allclose(got, [0.5, 0.5, 0], rtol=2 * library.eps)


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2, 3])
def test_a_row_has_the_same_bits_in_any_block(alpha):
    torch = pytest.importorskip("torch")
    rows = np.random.default_rng(2).normal(0, 1, (7, 37)) / np.array([1, 1, 9, 1, 1, 1, 5])[:, None]
    for of in (np.array, torch.tensor):
        whole = entmax(of(rows), alpha)
        turned = entmax(of(rows).T, alpha, axis=0)
        for i in range(7):
            alone = np.asarray(entmax(of(rows[i]), alpha))
            np.testing.assert_array_equal(alone, np.asarray(whole[i]))
            np.testing.assert_array_equal(alone, np.asarray(turned)[:, i])


@pytest.mark.parametrize("alpha", [1.01, 1.25, 1.5, 1.7, 2, 2.3, 3.0])
def test_jacobian(alpha, differentiable):
    for row in ([0.2, 0.1, -0.1, -5.0], [1.0, 0.75, -np.inf, 0.5]):
        p = np.array([float(v) for v in exact(tuple(np.where(np.isfinite(row), row, -1e9)), alpha)])
        rows = [differentiable.gradient(lambda z: entmax(z, alpha), row, cotangent=np.eye(4)[i]) for i in range(4)]
        np.testing.assert_allclose(rows, closed_jacobian(p, alpha), rtol=0, atol=64 * differentiable.eps)
        np.testing.assert_array_equal(np.array(rows)[:, np.isneginf(row)], 0)


@pytest.mark.parametrize("alpha", [1.5, 2, 3])
def test_gradient_of_special_values(alpha, differentiable):
    inf = np.inf
    rows = np.array([[1.0, -inf, 0.875], [-inf, -inf, -inf], [inf, 0.0, inf], [np.nan, 0.0, 1.0], [1e30, -1e30, 1e30]])
    got = differentiable.gradient(lambda z: entmax(z, alpha), rows, cotangent=np.array([1.0, 2.0, 3.0]))
    assert (got[1] == 0).all()
    assert got[0, 1] == 0
    assert np.isnan(got[3]).any()
    assert np.isfinite(got[[0, 2, 4]]).all()
    slope = 0.5 ** (2 - alpha)
    np.testing.assert_allclose(got[[2, 4]], [[-slope, 0, slope]] * 2, rtol=8 * differentiable.eps)


def test_gradient_of_a_class_at_the_threshold_of_a_large_alpha():
    """p^(2 - alpha) is 1e14 there, and ``w (e_i - mean)`` alone would have two digits left."""
    torch = pytest.importorskip("torch")
    row = np.array([0.0, -(1 - 1e-21) / 3 + 1e-13])
    p = np.array([float(v) for v in exact(tuple(row), 4.0)])
    x = torch.tensor(row, requires_grad=True)
    (got,) = torch.autograd.grad(entmax(x, 4.0)[1], x)
    s = p**-2
    slope = s[0] * s[1] / (s[0] + s[1])
    np.testing.assert_allclose(got, [-slope, slope], rtol=1e-9)


@pytest.mark.parametrize("alpha", [1.1, 1.25, 1.5, 1.7, 2, 2.5, 3.0])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_first_and_second_derivatives(alpha):
    torch = pytest.importorskip("torch")
    x = torch.tensor([[0.2, 0.1, -0.1, -5.0], [0.3, 0.0, 0.05, -0.05]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: entmax(z, alpha), x, eps=1e-6, atol=1e-6, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z: entmax(z, alpha), x, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.5, 1.7, 2, 3.0])
def test_hessian_of_jax_is_that_of_torch(alpha):
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    row, weights = np.array([0.2, 0.1, -0.1, -5.0, -np.inf]), np.array([1.0, -2.0, 0.5, 3.0, 1.0])
    with jax.enable_x64(True):
        seeds = jax.numpy.asarray(weights)
        ours = jax.jit(jax.hessian(lambda z: (entmax(z, alpha) * seeds).sum()))(jax.numpy.asarray(row))
    other = torch.autograd.functional.hessian(
        lambda z: (entmax(z, alpha) * torch.tensor(weights)).sum(), torch.tensor(row)
    )
    np.testing.assert_allclose(np.asarray(ours), other, rtol=0, atol=1e-12)
    assert (np.asarray(ours)[3:] == 0).all()


def test_torch_func():
    torch = pytest.importorskip("torch")
    x = torch.tensor([[0.2, 0.1, -0.1], [2.0, 1.75, -np.inf]], dtype=torch.float64)
    grad = torch.func.vmap(torch.func.grad(lambda z: entmax(z, 1.5)[0]))(x)
    rows = [closed_jacobian(p, 1.5)[0] for p in entmax(x.numpy(), 1.5)]
    np.testing.assert_allclose(grad, rows, atol=1e-15)
    tangent = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
    _, pushed = torch.func.jvp(lambda z: entmax(z, 1.5), (x[0],), (tangent,))
    np.testing.assert_allclose(pushed, closed_jacobian(entmax(x[0].numpy(), 1.5), 1.5) @ tangent.numpy(), atol=1e-15)


def test_half_precision_comes_back():
    row = np.array([0.5, 0.25, 0.0, -1.0], dtype=np.float16)
    for function in (sparsemax, entmax):
        got = function(row)
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, function(row.astype(np.float32)).astype(np.float16))
    torch = pytest.importorskip("torch")
    assert sparsemax(torch.tensor([0.5, 0.25], dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("alpha", [0.5, 0, -1, 0.999, np.inf, np.nan])
def test_an_alpha_out_of_range(alpha):
    with pytest.raises(
        ValueError, match=rf"entmax: alpha is a finite number of at least 1, not {alpha}\. 1 is softmax"
    ):
        entmax([1.0, 0.0], alpha)


def test_an_alpha_that_is_no_number():
    with pytest.raises(TypeError, match=r"entmax: alpha is a number of at least 1, not ndarray\. Write float\(alpha\)"):
        entmax([1.0, 0.0], np.array(1.5))
