"""standardize: both laws on masked rows, rows of any size and rows without direction, and their derivatives."""

import inspect

import mpmath
import numpy as np
import pytest

from arrays import JAX_JIT, TORCH, TORCH_32, Library
from lastlayer.transform.standardize import standardize

NUMPY, NUMPY_32 = Library("numpy", "numpy", np.array), Library("numpy-float32", "numpy", np.array, dtype="float32")
HOWS = pytest.mark.parametrize("how", ["norm", "zscore"])


def by(how, temperature=1.0):
    return lambda z: standardize(z, how=how, temperature=temperature)


def exact(row, how):
    """The textbook formula over the classes that are there, with 60 digits."""
    with mpmath.workdps(60):
        x = [mpmath.mpf(float(v)) for v in row if v > -np.inf]
        if how == "zscore":
            mean = mpmath.fsum(x) / len(x)
            x = [v - mean for v in x]
        length = mpmath.sqrt(mpmath.fsum(v * v for v in x) / (len(x) if how == "zscore" else 1))
        return [v / length for v in x]


def test_logitnorm(library):
    got = library.run(by("norm", 0.04), [[3.0, -4.0], [0.0, 2.0]])
    np.testing.assert_allclose(got, [[15, -20], [0, 25]], rtol=4 * library.eps)


def test_zscore(library):
    """1, 2, 3, 6 have mean 3 and population variance 14 / 4."""
    got = library.run(by("zscore", 2.0), [1.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(got, np.array([-2, -1, 0, 3]) / np.sqrt(3.5) / 2, rtol=4 * library.eps)


@HOWS
def test_a_masked_class_counts_for_nothing(how, library):
    x = np.array([[1.0, 2.0, 3.0, 6.0], [-5.0, 0.5, 0.0, 8.0]])
    wide = np.insert(x, 2, -np.inf, axis=-1)
    got = library.run(by(how), wide)
    assert (got[:, 2] == -np.inf).all()
    want = library.run(by(how), x)
    np.testing.assert_allclose(np.delete(got, 2, -1), want, rtol=4 * library.eps, atol=2 * library.eps)


@HOWS
@pytest.mark.parametrize("library", [NUMPY, NUMPY_32, TORCH, TORCH_32, JAX_JIT], indirect=True, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_values_to_4_units_of_the_largest(how, classes, library):
    rng = np.random.default_rng(classes)
    x = rng.normal(0, 1, (8, classes)) * np.array([[1e-3, 1, 1, 1, 30, 1, 1, 1e3]]).T
    x[2] += 1000
    x[3] -= 1e6
    x[5, 0] = 80
    x[6, 1:] = np.where(rng.random(classes - 1) < 0.3, -np.inf, x[6, 1:])
    x[6, :2] = 0.5, 1
    x = x.astype(np.float32).astype(np.float64)
    got = library.run(by(how), x)
    for row, ours in zip(x, got, strict=True):
        want = exact(row, how)
        unit = float(np.spacing(np.array(max(abs(float(v)) for v in want), library.dtype)))
        for a, b in zip(ours[np.isfinite(row)], want, strict=True):
            size = unit if how == "zscore" else float(np.spacing(np.array(abs(float(b)), library.dtype)))
            assert abs(float(mpmath.mpf(float(a)) - b)) <= 4 * size


@HOWS
def test_rows_of_any_size_neither_overflow_nor_vanish(how, library):
    rows = np.array([[1.0, -2.0, 4.0, 0.5]])
    want = library.run(by(how), rows)
    big, small = (1e38, 1e-36) if library.dtype == "float32" else (1e307, 1e-300)
    for size in (big / 4, small):
        np.testing.assert_allclose(library.run(by(how), rows * size), want, rtol=0, atol=4 * library.eps)


@HOWS
def test_a_long_row_of_the_largest_numbers(how, library):
    top = np.finfo(library.dtype).max
    rows = np.resize(np.array([top, -top], library.dtype), (1, 1000))
    want = np.resize([1.0, -1.0], (1, 1000)) / (np.sqrt(1000) if how == "norm" else 1)
    np.testing.assert_allclose(library.run(by(how), rows), want, rtol=8 * library.eps)


def test_adding_a_constant_changes_no_zscore(library):
    x = np.random.default_rng(1).integers(-48, 48, (4, 7)) / 8
    np.testing.assert_array_equal(library.run(by("zscore"), x + 1024), library.run(by("zscore"), x))


@pytest.mark.parametrize("library", [NUMPY, NUMPY_32, TORCH, JAX_JIT], indirect=True, ids=str)
def test_a_class_beside_the_mean_keeps_its_digits(library):
    """0.2 lies within a rounding of the mean of 0.1, 0.2 and 0.3, and on which side rounded differences cannot say."""
    row = np.array([0.1, 0.2, 0.3], library.dtype)
    want = exact(row, "zscore")[1]
    got = library.run(by("zscore"), row)[1]
    assert 0 < abs(want) < library.eps
    np.testing.assert_allclose(float(got), float(want), rtol=1e-3)


@HOWS
def test_a_row_without_direction_is_0_with_gradient_0(how, differentiable):
    """A head that was initialised with zeros; torch's x / x.norm() is nan there, and slow to leave with an epsilon."""
    rows = np.array([[0.0, 0.0, 0.0], [0.0, -np.inf, 0.0], [1.0, 2.0, 4.0]])
    if how == "zscore":
        rows[:2] = np.where(np.isfinite(rows[:2]), 1.75, -np.inf)
    got = differentiable.run(by(how), rows)
    np.testing.assert_array_equal(got[:2], [[0, 0, 0], [0, -np.inf, 0]])
    slopes = differentiable.gradient(by(how), rows, cotangent=np.array([1.0, 2.0, -3.0]))
    assert (slopes[:2] == 0).all()
    assert slopes[2].all()


def test_one_class_is_its_sign_or_has_no_spread(library):
    rows = [[5.0], [-2.0]]
    np.testing.assert_array_equal(library.run(by("norm"), rows), [[1], [-1]])
    np.testing.assert_array_equal(library.run(by("zscore"), rows), [[0], [0]])


@pytest.mark.parametrize(
    ("how", "row", "want"),
    [
        ("norm", [np.inf, 0.0, np.inf, -5.0], [np.sqrt(0.5), 0, np.sqrt(0.5), 0]),
        ("norm", [np.inf, -np.inf, 3.0], [1, -np.inf, 0]),
        ("zscore", [np.inf, 0.0, 7.0, -5.0], [np.sqrt(3), *[-np.sqrt(1 / 3)] * 3]),
        ("zscore", [np.inf, -np.inf, 3.0], [1, -np.inf, -1]),
        ("zscore", [np.inf, -np.inf, np.inf], [0, -np.inf, 0]),
    ],
)
def test_infinite_logits_are_their_limit(how, row, want, differentiable):
    np.testing.assert_allclose(differentiable.run(by(how), [row]), [want], rtol=4 * differentiable.eps)
    assert (differentiable.gradient(by(how), [row]) == 0).all()
    if -np.inf not in row:
        finite = np.where(np.array(row) == np.inf, 1e30, row)
        near = differentiable.run(by(how), [finite])
        np.testing.assert_allclose(near, [want], rtol=4 * differentiable.eps, atol=1e-25)


@HOWS
def test_a_spoilt_row_is_nan_and_an_empty_one_has_no_gradient(how, differentiable):
    rows = np.array([[1.0, np.nan, 2.0], [-np.inf] * 3, [np.inf, np.nan, 0.0], [1.0, 2.0, 4.0]])
    got, slopes = differentiable.run(by(how), rows), differentiable.gradient(by(how), rows)
    assert np.isnan(got[:3]).all() and np.isfinite(got[3]).all()
    assert (slopes[1] == 0).all() and np.isfinite(slopes[3]).all()
    assert np.isnan(slopes[0]).all()


@pytest.mark.parametrize("how", ["norm", "zscore"])
def test_the_gradient_is_the_projection(how, differentiable):
    """d(z / |z|) = (I - u u') / |z|, and for the z-score that of the centred row, times sqrt(n), centred."""
    x, c = np.array([[1.0, -2.0, 0.5, 3.0]]), np.array([1.0, -0.5, 0.25, 2.0])
    z = x[0] - (x[0].mean() if how == "zscore" else 0)
    length = np.sqrt((z * z).sum())
    u = z / length
    want = (c - u * (u @ c)) / length
    if how == "zscore":
        want = 2 * (want - want.mean())
    got = differentiable.gradient(by(how), x, cotangent=c)
    np.testing.assert_allclose(got[0], want, rtol=0, atol=8 * differentiable.eps)


@HOWS
def test_derivatives(how):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(np.random.default_rng(2).normal(0, 3, (4, 5))).requires_grad_()
    assert torch.autograd.gradcheck(by(how, 0.5), x)
    assert torch.autograd.gradgradcheck(by(how, 0.5), x)
    hidden = np.array([[1.0, -np.inf, 0.5], [-np.inf] * 3, [0.0, 0.0, 0.0], [np.inf, 0.0, 1.0]])
    hidden = torch.from_numpy(hidden).requires_grad_()
    y = by(how)(hidden)
    y = torch.where(torch.isfinite(y), y, torch.zeros_like(y))
    (slope,) = torch.autograd.grad((y * torch.tensor([1.0, 2.0, 3.0])).sum(), hidden, create_graph=True)
    (curvature,) = torch.autograd.grad((slope * torch.tensor([3.0, 1.0, 2.0])).sum(), hidden)
    assert slope.isfinite().all() and curvature.isfinite().all()
    assert slope[0, 1] == 0 and curvature[0, 1] == 0 and not slope[1:].any()


@HOWS
def test_maps_over_rows(how):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = np.random.default_rng(3).normal(0, 3, (4, 5))
    x[1, 2] = -np.inf
    want = TORCH.gradient(lambda z: by(how)(z)[..., :2], x)
    mapped = torch.func.vmap(torch.func.grad(lambda z: by(how)(z)[:2].sum()))(TORCH.of(x))
    np.testing.assert_array_equal(mapped, want)
    jax = pytest.importorskip("jax", reason="pip install jax")
    traced = jax.jit(jax.vmap(jax.grad(lambda z: by(how)(z)[:2].sum())))(JAX_JIT.of(x))
    np.testing.assert_allclose(traced, want, rtol=1e-5, atol=1e-6)
    hessian = jax.hessian(lambda z: by(how)(z)[0])(JAX_JIT.of([1.0, -2.0, 0.5]))
    assert np.isfinite(hessian).all()
    np.testing.assert_allclose(hessian, np.asarray(hessian).T, atol=1e-6)


@HOWS
@pytest.mark.parametrize("library", [NUMPY, NUMPY_32, TORCH], indirect=True, ids=str)
def test_a_row_has_its_bits_whatever_its_neighbours_and_layout(how, library):
    x = np.random.default_rng(5).normal(0, 4, (7, 137))
    whole = library.run(by(how), x)
    np.testing.assert_array_equal(library.run(by(how), x[::-1])[::-1], whole)
    np.testing.assert_array_equal(library.run(by(how), x[3]), whole[3])
    turned = library.numpy(by(how)(library.of(np.ascontiguousarray(x.T)).T))
    np.testing.assert_array_equal(turned, whole)


@HOWS
def test_axis(how, library):
    x = np.random.default_rng(6).normal(0, 4, (3, 4, 5))
    want = library.run(by(how), x)
    for axis in (0, 1, -1, -2):
        got = library.run(lambda z, a=axis: standardize(z, how=how, axis=a), np.moveaxis(x, -1, axis))
        np.testing.assert_array_equal(got, np.moveaxis(want, -1, axis))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(half):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.tensor([[3e4, -3e4, 1.0]]).to(getattr(torch, half))
    assert torch.equal(standardize(x), standardize(x.float()).to(x.dtype))


def test_what_is_no_way_or_temperature_is_refused():
    with pytest.raises(ValueError, match=r"standardize: how is one of 'norm', 'zscore', not 'z-score'\. Did you mean"):
        standardize([1.0, 2.0], how="z-score")
    for temperature in (0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="standardize: temperature is a finite number above 0, not"):
            standardize([1.0, 2.0], temperature=temperature)
    with pytest.raises(ValueError, match="this is a single number"):
        inspect.unwrap(standardize)(1.0)
