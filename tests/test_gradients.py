"""The laws of derivatives: against the reference, at edges, twice, forward, mapped over rows and traced."""

import functools

import numpy as np
import pytest

import lastlayer as ll
import reference
from arrays import DIFFERENTIABLE, JAX, JAX_JIT_64, TORCH
from laws import ROWS
from table import law

OF_CLASSES = [row for row in ROWS if row.takes == "row"]
CONTAINED = [row for row in ROWS if row.takes != "batch"]
MASKED = [[1.0, -np.inf, 0.5], [-np.inf] * 3, [np.inf, 0.0, np.inf]]


@functools.cache
def expected_gradient(row):
    x, target = row.smooth_inputs()
    seeds = np.broadcast_to(row.cotangents(x), x.shape)
    slopes = []
    for i in range(len(x)):
        seed = [1.0] if row.gives == "one" else seeds[i]
        slopes.append(reference.gradient(row, x[i], seed, None if target is None else target[i]))
    return np.array(slopes, dtype=float)


@law(
    "gradient",
    "The gradient is that of the exact formula; where NumPy has no gradient, PyTorch and JAX (eager and compiled) do.",
    ROWS,
    [*DIFFERENTIABLE, JAX],
)
def test_gradient(row, library):
    got, want = row.gradient(library, *row.smooth_inputs()), expected_gradient(row)
    scale = np.abs(want).max(-1, keepdims=True) if row.takes != "number" else np.abs(want)
    assert (np.abs(got - want) <= 16 * library.eps * scale).all()


@law(
    "gradient of a shift",
    "The gradient of a row sums to what adding a constant does: to 0, or to 1 or -1 where it comes out again.",
    [row for row in ROWS if row.takes != "number"],
    DIFFERENTIABLE,
)
def test_gradient_of_a_shift(row, library):
    x, target = row.inputs()
    seeds = np.broadcast_to(row.cotangents(x), x.shape)
    added = row.added * (1.0 if row.gives == "one" else seeds.sum(-1))
    sums = row.gradient(library, x, target).sum(-1)
    np.testing.assert_allclose(sums, added, rtol=0, atol=32 * library.eps)


@law(
    "gradient of a masked class",
    "A masked class has gradient exactly 0 and leaves those of the others; an empty row has none at all.",
    OF_CLASSES,
    DIFFERENTIABLE,
)
def test_gradient_of_a_masked_class(row, library):
    whole, target = row.inputs()
    x = np.concatenate([whole, np.full((4, 1), -np.inf)], axis=-1)
    x[3] = -np.inf
    seed = row.cotangents(x)
    if seed.ndim:
        seed[:, 4] = 0  # what comes back to log 0 itself has nowhere to go but there
    wide = target
    if row.target in ("distribution", "binary"):
        wide = np.concatenate([target, np.zeros((4, 1), target.dtype)], axis=-1)
    got = library.gradient(row, x, wide, seed)
    assert (got[3] == 0).all()
    assert (got[:3, 4] == 0).all()
    without = library.gradient(row, whole, target, seed[:, :4] if seed.ndim else seed)
    np.testing.assert_allclose(got[:3, :4], without[:3], rtol=0, atol=16 * library.eps)


@law(
    "gradient of a nan",
    "A nan makes the gradient of its own row nan (where it has a slope), and of no other.",
    CONTAINED,
    DIFFERENTIABLE,
)
def test_gradient_of_a_nan(row, library):
    x, target = row.inputs()
    spoilt = x.copy()
    spoilt[3, 1] = np.nan
    before, after = row.gradient(library, x, target), row.gradient(library, spoilt, target)
    touched = np.zeros(x.shape, bool)
    touched[(3, 1) if row.takes == "number" else 3] = True
    reached = np.isnan(after[touched])
    assert reached.sum() == (reached.size if row.nan_slopes is None else row.nan_slopes)
    np.testing.assert_array_equal(after[~touched], before[~touched])


@law(
    "twice",
    "PyTorch differentiates it twice: double backward equals finite differences of the gradient.",
    [row for row in ROWS if row.curved],
    [TORCH],
)
def test_twice(row, library):
    import torch

    x, target = row.smooth_inputs()
    x, target = x[:3] / 2, None if target is None else target[:3]
    x = library.of(x[0] if row.takes == "batch" else x).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: row(z, target), x)


@law(
    "hessian",
    "`jax.hessian` in float64 equals second differences of the exact formula.",
    [row for row in ROWS if row.curved],
    [JAX_JIT_64],
)
def test_hessian(row, library):
    import jax

    x, target = row.smooth_inputs()
    x, target = x[0] / 2, None if target is None else target[0]
    seed = row.cotangents(x)
    got = jax.jit(jax.hessian(lambda z: (row(z, target) * seed).sum()))(library.of(x))
    seeds = [1.0] if row.gives == "one" else seed
    want = np.array(reference.hessian(row, x, seeds, target), dtype=float)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * max(1.0, np.abs(want).max()))


@law(
    "curvature of special rows",
    "Slopes and curvature are finite at masked classes, at empty rows and at rows that hold inf, where the result is.",
    OF_CLASSES,
    [TORCH],
)
def test_curvature_of_special_rows(row, library):
    import torch

    x = library.of(MASKED).requires_grad_()
    y = row(x, row.special_target(3))
    y = torch.where(torch.isfinite(y), y, torch.zeros_like(y))
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert slope.isfinite().all()
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad((slope * torch.tensor([1.0, 2.0, 3.0])).sum(), x)
        assert curvature.isfinite().all()


@law("torch.func", "`torch.func.vmap(grad)` gives the bits of a gradient of the whole block.", CONTAINED, [TORCH])
def test_torch_func(row, library):
    import torch

    x, target = row.inputs()
    given = (library.of(x),) if target is None else (library.of(x), library.of(target))
    mapped = torch.func.vmap(torch.func.grad(lambda z, *fixed: row(z, *fixed).sum()))(*given)
    with ll.formulas():  # of what is mapped there is no kernel
        np.testing.assert_array_equal(mapped, library.gradient(row, x, target))


@law("jax.vmap", "`jax.vmap(grad)`, compiled, gives values and gradients of the whole block.", CONTAINED, [JAX])
def test_jax_vmap(row, library):
    import jax

    def value_twice(z, *fixed):
        y = row(z, *fixed)
        return y.sum(), y

    x, target = row.inputs()
    given = (library.of(x),) if target is None else (library.of(x), library.of(target))
    slopes, values = jax.jit(jax.vmap(jax.grad(value_twice, has_aux=True)))(*given)
    np.testing.assert_allclose(values, row(x, target), rtol=4e-6, atol=4e-6)
    np.testing.assert_allclose(slopes, TORCH.gradient(row, x, target), rtol=1e-5, atol=1e-6)


@law("forward mode", "The derivative along a direction (`torch.func.jvp`) agrees with the gradient.", ROWS, [TORCH])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # inside torch.func.jvp
def test_forward_mode(row, library):
    import torch

    x, target = row.inputs()
    x = x[0] if row.takes == "batch" else x
    direction = np.resize([1.0, -2.0, 0.5], x.shape)
    _, forward = torch.func.jvp(lambda z: row(z, target).sum(), (library.of(x),), (library.of(direction),))
    reverse = (library.gradient(row, x, target) * direction).sum()
    np.testing.assert_allclose(forward, reverse, rtol=1e-13, atol=1e-14)


def test_jax_traces_targets_and_poisons_those_out_of_range():
    jax = pytest.importorskip("jax", reason="pip install jax")
    from lastlayer import cross_entropy

    x = JAX.of([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    losses = jax.jit(cross_entropy)(x, jax.numpy.asarray([0, -1, 2]))
    np.testing.assert_allclose(losses, [1.3132616, np.nan, np.nan], rtol=1e-6)
