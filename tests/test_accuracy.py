"""The laws of accuracy: every row of `laws.ROWS` against the reference, in units in the last place of the result.

Rows of 1 to 1,000 classes: normal at scales 1 to 30, one class 0 to 80 above the rest, ties, three in ten masked, and
far from zero. Where the result is below the smallest normal number of the dtype, it only has to be as small. The long
sweeps (32,000 and 256,000 classes) are marked slow.
"""

import functools

import mpmath
import numpy as np
import pytest

import reference
from arrays import DIFFERENTIABLE, JAX_JIT, JAX_JIT_64, TORCH, TORCH_32, Library
from laws import ROWS
from table import law

NUMPY, NUMPY_32 = Library("numpy", "numpy", np.array), Library("numpy-float32", "numpy", np.array, dtype="float32")
BACKENDS = [NUMPY, NUMPY_32, TORCH, TORCH_32, JAX_JIT, JAX_JIT_64]
OF_CLASSES = [row for row in ROWS if row.takes != "number"]
NUMBERS = [row for row in ROWS if row.takes == "number"]
SLOPE_OF_ROW = 16  # where a derivative cancels: units in the last place of the largest entry of the row


@functools.cache
def sweep(classes):
    """Rows of so many classes, in values that float32 holds exactly."""
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


def target_of(row, x):
    """Each second row is right: its target is its largest class."""
    target = row.targets(x)
    if row.target == "index":
        return np.where(np.arange(len(x)) % 2, x.argmax(-1), np.isfinite(x).argmax(-1))
    return np.where(np.isfinite(x), target, 0) if row.target in ("distribution", "binary") else target


@functools.cache
def swept(row, classes):
    """The rows of so many classes, and what is expected of them."""
    x = sweep(classes)
    x, target = row.held or (x, target_of(row, x))
    wanted = [reference.value(row, one, None if target is None else target[i]) for i, one in enumerate(x)]
    return x, target, [parts(exact) for exact in wanted]


@functools.cache
def expected_slopes(row):
    """For rows of three classes; for numbers, one list of all."""
    if row.takes == "number":
        x = numbers(*row.domain)
        return x, row.targets(x), parts(reference.gradient(row, x, np.ones(len(x)), row.targets(x)))
    x = sweep(3)[::2]
    x = x[np.isfinite(x).all(-1) & (np.sort(x, -1)[:, -1] > np.sort(x, -1)[:, -2])]
    x, target = row.held or (x, target_of(row, x))
    slopes = [reference.gradient(row, one, [1.0], None if target is None else target[i]) for i, one in enumerate(x)]
    return x, target, [parts(slope) for slope in slopes]


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


@law(
    "accuracy",
    "Rows of 1 to 1,000 classes are within `ulp` units in the last place of the exact value.",
    OF_CLASSES,
    BACKENDS,
)
def test_accuracy(row, library):
    for classes in [3, 1000] if library.package == "jax" else [1, 2, 3, 10, 1000]:
        if classes > row.longest:
            continue
        x, target, wanted = swept(row, classes)
        for one, ours, exact in zip(x, row.run(library, x, target), wanted, strict=True):
            unit = row.unit(one) if row.unit and np.isfinite(row.unit(one)) else 0.0
            assert worst_ulp(ours, exact, library.dtype, unit) <= row.ulp, one


@law(
    "accuracy of numbers",
    "Single numbers over the whole domain are within `ulp` of the exact value.",
    NUMBERS,
    BACKENDS,
)
def test_accuracy_of_numbers(row, library):
    x = numbers(*row.domain)
    target = row.targets(x)
    bound = row.xla_ulp if row.xla_ulp and library is JAX_JIT_64 else row.ulp
    assert worst_ulp(library.run(row, x, target), parts(reference.value(row, x, target)), library.dtype) <= bound


@law(
    "accuracy of slopes",
    f"Slopes are within `slope_ulp` of the exact ones; where a derivative cancels, within {SLOPE_OF_ROW} units in the "
    "last place of the largest of the row.",
    [row for row in OF_CLASSES if row.gives == "one" and row.takes == "row"]
    + [row for row in NUMBERS if row.slope_ulp is not None],
    DIFFERENTIABLE,
)
def test_accuracy_of_slopes(row, library):
    x, target, want = expected_slopes(row)
    got = library.gradient(row, x, target)
    if row.takes == "number":
        assert worst_ulp(got, want, library.dtype) <= row.slope_ulp
        return
    for ours, exact in zip(got, want, strict=True):
        unit, bound = (np.abs(exact[0]).max(), SLOPE_OF_ROW) if row.slope_ulp is None else (0.0, row.slope_ulp)
        assert worst_ulp(ours, exact, library.dtype, unit) <= bound


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("differentiable", [TORCH, TORCH_32, JAX_JIT, JAX_JIT_64], indirect=True, ids=str)
def test_cross_entropy_gradient_is_p_minus_onehot(differentiable, classes):
    row = next(row for row in ROWS if row.name == "cross_entropy")
    x = sweep(classes)
    target = target_of(row, x)
    got = differentiable.gradient(row, x, target)
    for i, one in enumerate(x):
        want = parts(reference.softmax_minus_onehot(one, target[i]))
        assert worst_ulp(got[i], want, differentiable.dtype) <= row.slope_ulp, one


@pytest.mark.slow
@pytest.mark.parametrize("classes", [32_000, 256_000])
@pytest.mark.parametrize("library", [NUMPY, NUMPY_32, TORCH_32, JAX_JIT], indirect=True, ids=str)
@pytest.mark.parametrize(
    "row",
    [row for row in OF_CLASSES if row.takes == "row" and row.target in (None, "index") and not row.variant],
    ids=lambda row: row.name,
)
def test_accuracy_of_long_rows(row, library, classes):
    """Sums that long may carry one more bit."""
    rng = np.random.default_rng(classes)
    x = np.stack([rng.normal(0, 1, classes), rng.normal(0, 10, classes), rng.normal(0, 1, classes)])
    x[2, 7] = 40.0
    x = x.astype(np.float32).astype(np.float64)
    target = np.array([3, int(x[1].argmax()), 7]) if row.target else None
    got = library.run(row, x, target)
    with mpmath.workdps(40):
        for i, one in enumerate(x):
            want = parts(reference.value(row, one, None if target is None else target[i]))
            unit = row.unit(one) if row.unit else 0.0
            assert worst_ulp(got[i], want, library.dtype, unit) <= 2 * row.ulp
