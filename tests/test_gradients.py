"""The derivatives of every row of `laws.LAWS`: against the reference, at edges, twice, forward, mapped and traced."""

import functools

import numpy as np
import pytest

import reference
from arrays import JAX, JAX_JIT, TORCH
from laws import LAWS, over, sample, targets

ROWS = [law for law in LAWS if law.takes == "row"]
NUMBERS = [law for law in LAWS if law.takes == "number"]
CONTAINED = ROWS + NUMBERS


def cotangents(law, x):
    """What comes back to each entry of the result: 1 for one number per row, else something that is not even."""
    return np.resize([1.0, -0.5, 0.25, 2.0, 0.75], x.shape) if law.gives != "one" else np.array(1.0)


@functools.cache
def expected_gradient(law):
    x = untied(law)
    target, seeds = targets(law, x), np.broadcast_to(cotangents(law, x), x.shape)
    slopes = []
    for i in range(len(x)):
        seed = [1.0] if law.gives == "one" else seeds[i]
        slopes.append(reference.gradient(law, x[i], seed, None if target is None else target[i]))
    return np.array(slopes, dtype=float)


def gradient(law, backend, x, target):
    if law.takes == "batch":
        return np.stack([backend.gradient(law, row) for row in x])
    return backend.gradient(law, x, target, cotangents(law, x))


def untied(law):
    """The sample without ties, where the largest logit has a slope of its own."""
    x = sample(law)
    if law.function.__name__ in ("log_odds", "top2_gap"):
        x[1, 0] += 1
    return x


def check_gradient(law, backend):
    x = untied(law)
    got, want = gradient(law, backend, x, targets(law, x)), expected_gradient(law)
    scale = np.abs(want).max(-1, keepdims=True) if law.takes != "number" else np.abs(want)
    assert (np.abs(got - want) <= 16 * backend.eps * scale).all()


@over(LAWS)
def test_gradient(law, differentiable):
    check_gradient(law, differentiable)


@over([law for law in LAWS if law.name in ("cross_entropy", "entropy", "mean")])
def test_gradient_under_eager_jax(law):
    JAX.require()
    check_gradient(law, JAX)


@over([law for law in LAWS if law.shift is not None])
def test_the_gradient_sums_to_what_a_shift_does(law, differentiable):
    x = sample(law)
    sums = gradient(law, differentiable, x, targets(law, x)).sum(-1)
    np.testing.assert_allclose(sums, 1.0 if law.shift == "adds" else 0.0, rtol=0, atol=32 * differentiable.eps)


@over(ROWS)
def test_a_masked_class_has_no_gradient_and_an_empty_row_none_at_all(law, differentiable):
    whole, target = sample(law), targets(law, sample(law))
    x = np.concatenate([whole, np.full((4, 1), -np.inf)], axis=-1)
    x[3] = -np.inf
    seed = cotangents(law, x)
    if seed.ndim:
        seed[:, 4] = 0  # what comes back to log 0 itself has nowhere to go but there
    wide = np.concatenate([target, np.zeros((4, 1))], axis=-1) if law.target == "distribution" else target
    got = differentiable.gradient(law, x, wide, seed)
    assert (got[3] == 0).all()
    assert (got[:3, 4] == 0).all()
    without = differentiable.gradient(law, whole, target, seed[:, :4] if seed.ndim else seed)
    np.testing.assert_allclose(got[:3, :4], without[:3], rtol=0, atol=16 * differentiable.eps)


@over(CONTAINED)
def test_a_nan_gives_a_nan_gradient_in_its_row_alone(law, differentiable):
    x = sample(law)
    target = targets(law, x)
    spoilt = x.copy()
    spoilt[3, 1] = np.nan
    before, after = gradient(law, differentiable, x, target), gradient(law, differentiable, spoilt, target)
    touched = np.zeros(x.shape, bool)
    touched[(3, 1) if law.takes == "number" else 3] = True
    reached = np.isnan(after[touched])
    assert reached.sum() == 2 if law.function.__name__ == "top2_gap" else reached.all()
    np.testing.assert_array_equal(after[~touched], before[~touched])


@over(LAWS)
def test_torch_differentiates_twice(law):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(untied(law)[:3] / 2).requires_grad_()
    x = x.detach()[0].requires_grad_() if law.takes == "batch" else x
    target = targets(law, untied(law)[:3])
    assert torch.autograd.gradcheck(lambda z: law(z, target), x)
    if law.function.__name__ != "top2_gap":  # piecewise linear: its gradient is a constant
        assert torch.autograd.gradgradcheck(lambda z: law(z, target), x)


@over(ROWS)
def test_curvature_is_finite_at_masked_classes_empty_and_infinite_rows(law):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.tensor([[1.0, -np.inf, 0.5], [-np.inf] * 3, [np.inf, 0.0, np.inf]], dtype=torch.float64)
    x.requires_grad_()
    target = {"index": np.array([0, 0, 0]), "distribution": np.array([[0.5, 0, 0.5]] * 3)}.get(law.target)
    y = law(x, target)
    y = torch.where(torch.isfinite(y), y, torch.zeros_like(y))
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert slope.isfinite().all()
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad((slope * torch.tensor([1.0, 2.0, 3.0])).sum(), x)
        assert curvature.isfinite().all()


@over(CONTAINED)
def test_torch_maps_gradients_over_rows(law):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = torch.from_numpy(sample(law))
    target = targets(law, sample(law))
    if target is None:
        mapped = torch.func.vmap(torch.func.grad(lambda z: law(z).sum()))(x)
    else:
        mapped = torch.func.vmap(torch.func.grad(lambda z, y: law(z, y).sum()))(x, torch.from_numpy(target))
    np.testing.assert_array_equal(mapped, TORCH.gradient(law, x.numpy(), target))


@over(CONTAINED)
def test_jax_maps_gradients_over_rows(law):
    jax = pytest.importorskip("jax", reason="pip install jax")
    x = JAX.of(sample(law))
    target = targets(law, sample(law))
    if target is None:
        mapped = jax.jit(jax.vmap(jax.grad(lambda z: law(z).sum())))(x)
    else:
        mapped = jax.jit(jax.vmap(jax.grad(lambda z, y: law(z, y).sum())))(x, jax.numpy.asarray(target))
    batch = TORCH.gradient(law, sample(law), target)
    np.testing.assert_allclose(mapped, batch, rtol=1e-5, atol=1e-6)


@over(LAWS)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # inside torch.func.jvp
def test_forward_mode_agrees_with_reverse_mode(law):
    torch = pytest.importorskip("torch", reason="pip install torch")
    x = sample(law)
    x = x[0] if law.takes == "batch" else x
    target = targets(law, x)
    direction = np.resize([1.0, -2.0, 0.5], x.shape)
    _, forward = torch.func.jvp(lambda z: law(z, target).sum(), (TORCH.of(x),), (TORCH.of(direction),))
    reverse = (TORCH.gradient(law, x, target) * direction).sum()
    np.testing.assert_allclose(forward, reverse, rtol=1e-13, atol=1e-14)


@over(LAWS)
def test_jax_traces_the_formula(law):
    JAX_JIT.require()
    x = sample(law)
    target = targets(law, x)
    traced = JAX_JIT.run(law, x, target)
    np.testing.assert_allclose(traced, law(x, target), rtol=4e-6, atol=4e-6)


def test_jax_traces_targets_and_poisons_those_out_of_range():
    jax = pytest.importorskip("jax", reason="pip install jax")
    from lastlayer import cross_entropy

    x = JAX.of([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    losses = jax.jit(cross_entropy)(x, jax.numpy.asarray([0, -1, 2]))
    np.testing.assert_allclose(losses, [1.3132616, np.nan, np.nan], rtol=1e-6)
