"""Every row of `laws.LAWS` against the reference, in units in the last place of the result.

Rows of 1 to 1,000 classes: normal at scales 1 to 30, one class 0 to 80 above the rest, ties, three in ten masked, and
far from zero. Where the result is below the smallest normal number of the dtype, it only has to be as small. The long
sweeps (32,000 and 256,000 classes) are marked slow.
"""

import functools

import mpmath
import numpy as np
import pytest

import reference
from arrays import JAX_JIT, JAX_JIT_64, TORCH, TORCH_32, Library
from laws import LAWS, over, targets

NUMPY, NUMPY_32 = Library("numpy", "numpy", np.array), Library("numpy-float32", "numpy", np.array, dtype="float32")
BACKENDS = [NUMPY, NUMPY_32, TORCH, TORCH_32, JAX_JIT, JAX_JIT_64]
SOFTMAX = [law for law in LAWS if law.takes != "number"]
NUMBERS = [law for law in LAWS if law.takes == "number"]
SLOPE_OF_ROW = 16  # where a derivative cancels: units in the last place of the largest entry of the row


@functools.cache
def rows(classes):
    """The rows of the sweep, in values that float32 holds exactly."""
    rng = np.random.default_rng(classes)
    each = 2 if classes <= 10 else 1
    x = [rng.normal(0, scale, classes) for scale in (1, 3, 10, 30) for _ in range(each)]
    for margin in (0, 2, 5, 7, 10, 20, 40, 60, 80):
        dominated = rng.normal(0, 1, (each, classes))
        dominated[:, rng.integers(classes)] = dominated.max() + margin
        x.extend(dominated)
    x.append(np.full(classes, 1.75))
    x.append(np.where(rng.random(classes) < 0.3, -np.inf, rng.normal(0, 3, classes)))
    x[-1][0] = 0.5
    x.append(rng.normal(0, 1, classes) + 1000)
    x.append(rng.normal(0, 1, classes) - 10_000)
    return np.array(x).astype(np.float32).astype(np.float64)


@functools.cache
def numbers(low, high):
    """Single numbers over the whole domain, dense where a branch changes."""
    rng = np.random.default_rng(3)
    if (low, high) == (0, 1):
        x = np.concatenate([rng.random(40), 0.5 + rng.normal(0, 1e-3, 10), 10.0 ** -np.arange(1, 13, 2), [0.25, 0.75]])
    else:
        x = np.concatenate(
            [rng.normal(0, scale, 15) for scale in (1e-3, 1, 10, 40)] + [[0.0, 0.6931, -0.6932, 80, -80]]
        )
        x = x if high else -abs(x) - 1e-6
    return x.astype(np.float32).astype(np.float64)


def target_of(law, x):
    """Each second row is right: its target is its largest class."""
    target = targets(law, x)
    if law.target == "index":
        return np.where(np.arange(len(x)) % 2, x.argmax(-1), np.isfinite(x).argmax(-1))
    return np.where(np.isfinite(x), target, 0.0) if law.target == "distribution" else target


@functools.cache
def expected(law, classes):
    x = rows(classes)
    target = None if law.takes == "batch" else target_of(law, x)
    return [parts(reference.value(law, row, None if target is None else target[i])) for i, row in enumerate(x)]


@functools.cache
def expected_slopes(law):
    """For rows of three classes; for numbers, one list of all."""
    if law.takes == "number":
        x = numbers(*law.domain)
        return x, parts(reference.gradient(law, x, np.ones(len(x)), targets(law, x)))
    x = rows(3)[::2]
    x = x[np.isfinite(x).all(-1) & (np.sort(x, -1)[:, -1] > np.sort(x, -1)[:, -2])]
    target = target_of(law, x)
    slopes = [reference.gradient(law, row, [1.0], None if target is None else target[i]) for i, row in enumerate(x)]
    return x, [parts(slope) for slope in slopes]


def parts(exact):
    """The reference as a float64 and what that leaves out, which is enough for errors of a thousandth of a unit."""
    high = np.array([float(v) for v in exact])
    low = np.array([float(v - mpmath.mpf(h)) if np.isfinite(h) else 0.0 for v, h in zip(exact, high, strict=True)])
    return high, low


def worst_ulp(got, want, dtype, unit=0.0):
    """The largest error in units in the last place of the reference (or of `unit`, where that is larger)."""
    got, (high, low) = np.reshape(got, -1).astype(np.float64), want
    finite, tiny = np.isfinite(high) & np.isfinite(got), float(np.finfo(dtype).tiny)
    np.testing.assert_array_equal(got[~finite], high[~finite])
    got, high, low = got[finite], high[finite], low[finite]
    size = np.maximum(np.abs(high), unit)
    below = size < tiny
    assert (np.abs(got[below]) <= tiny).all()
    error = np.abs((got - high) - low)[~below] / np.spacing(size[~below].astype(dtype))
    return error.max(initial=0.0)


@over(SOFTMAX)
@pytest.mark.parametrize(
    ("library", "classes"),
    [(known, k) for known in BACKENDS for k in ([3, 1000] if known.package == "jax" else [1, 2, 3, 10, 1000])],
    indirect=["library"],
    ids=str,
)
def test_values(law, library, classes):
    x = rows(classes)
    got = [library.run(law, row) for row in x] if law.takes == "batch" else library.run(law, x, target_of(law, x))
    for row, ours, exact in zip(x, got, expected(law, classes), strict=True):
        unit = law.unit(row) if law.unit and np.isfinite(law.unit(row)) else 0.0
        assert worst_ulp(ours, exact, library.dtype, unit) <= law.ulp, row


@over(NUMBERS)
@pytest.mark.parametrize("library", BACKENDS, indirect=True, ids=str)
def test_values_of_numbers(law, library):
    x = numbers(*law.domain)
    target = targets(law, x)
    bound = 128 if (law.name, library) == ("log1mexp", JAX_JIT_64) else law.ulp  # XLA's own log1p near -0.4
    assert worst_ulp(library.run(law, x, target), parts(reference.value(law, x, target)), library.dtype) <= bound


@over([law for law in NUMBERS if law.slope_ulp is not None])
def test_slopes_of_numbers(law, differentiable):
    x, want = expected_slopes(law)
    got = differentiable.gradient(law, x, targets(law, x))
    assert worst_ulp(got, want, differentiable.dtype) <= law.slope_ulp


@over([law for law in SOFTMAX if law.gives == "one" and law.takes == "row"])
def test_slopes_of_rows(law, differentiable):
    x, wanted = expected_slopes(law)
    got = differentiable.gradient(law, x, target_of(law, x))
    for ours, want in zip(got, wanted, strict=True):
        if law.slope_ulp is None:
            assert worst_ulp(ours, want, differentiable.dtype, np.abs(want[0]).max()) <= SLOPE_OF_ROW
        else:
            assert worst_ulp(ours, want, differentiable.dtype) <= law.slope_ulp


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("differentiable", [TORCH, TORCH_32, JAX_JIT, JAX_JIT_64], indirect=True, ids=str)
def test_cross_entropy_gradient_is_p_minus_onehot(differentiable, classes):
    law = next(law for law in LAWS if law.name == "cross_entropy")
    x = rows(classes)
    target = target_of(law, x)
    got = differentiable.gradient(law, x, target)
    for i, row in enumerate(x):
        want = parts(reference.softmax_minus_onehot(row, target[i]))
        assert worst_ulp(got[i], want, differentiable.dtype) <= law.slope_ulp, row


@pytest.mark.slow
@pytest.mark.parametrize("classes", [32_000, 256_000])
@pytest.mark.parametrize("library", [NUMPY, NUMPY_32, TORCH_32, JAX_JIT], indirect=True, ids=str)
@over([law for law in SOFTMAX if law.takes == "row" and law.target in (None, "index") and not law.settings])
def test_values_of_long_rows(law, library, classes):
    """Sums that long may carry one more bit."""
    rng = np.random.default_rng(classes)
    x = np.stack([rng.normal(0, 1, classes), rng.normal(0, 10, classes), rng.normal(0, 1, classes)])
    x[2, 7] = 40.0
    x = x.astype(np.float32).astype(np.float64)
    target = np.array([3, int(x[1].argmax()), 7]) if law.target else None
    got = library.run(law, x, target)
    with mpmath.workdps(40):
        for i, row in enumerate(x):
            want = parts(reference.value(law, row, None if target is None else target[i]))
            unit = law.unit(row) if law.unit else 0.0
            assert worst_ulp(got[i], want, library.dtype, unit) <= 2 * law.ulp
