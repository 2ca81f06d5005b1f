"""The Hessian of a last layer's cross-entropy times a direction is that of autograd, without the logits."""

import numpy as np
import pytest

import lastlayer as ll
from lastlayer.linear import linear_hessian_product

SMALL = 30_000  # bytes: several blocks of the classes, and several groups of rows


def problem(dtype="float64"):
    rng = np.random.default_rng(0)
    shapes = (60, 5), (300, 5), (300, 5), (300,), (300,)
    return *(rng.normal(size=s).astype(dtype) for s in shapes), rng.uniform(size=60)


@pytest.mark.parametrize("memory", ["64MiB", SMALL])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_product_is_that_of_autograd(memory, dtype):
    torch = pytest.importorskip("torch")
    features, weight, direction, bias, turned, scale = problem(dtype)
    found = linear_hessian_product(
        features, weight, direction, bias=bias, bias_direction=turned, row_weight=scale, memory=memory
    )
    x, s = torch.from_numpy(features.astype(float)), torch.from_numpy(scale)
    target = torch.zeros(60, dtype=torch.int64)
    want = torch.autograd.functional.hvp(
        lambda w, b: (s * ll.cross_entropy(x @ w.T + b, target)).sum(),
        tuple(torch.from_numpy(a.astype(float)) for a in (weight, bias)),
        tuple(torch.from_numpy(a.astype(float)) for a in (direction, turned)),
    )[1]
    for part, exact in zip(found[:2], want, strict=True):
        assert part.dtype == dtype
        room = 5e-6 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(part, exact, rtol=0, atol=room * float(exact.abs().max()))


@pytest.mark.parametrize("memory", ["64MiB", SMALL])
@pytest.mark.parametrize("gauss_newton", [False, True])
def test_with_directions_of_weight_bias_and_features(memory, gauss_newton):
    torch = pytest.importorskip("torch")
    features, weight, direction, bias, turned, scale = problem()
    rng = np.random.default_rng(1)
    moved, target = rng.normal(size=features.shape), rng.integers(0, 300, 60)
    found = linear_hessian_product(
        features,
        weight,
        direction,
        bias=bias,
        bias_direction=turned,
        features_direction=moved,
        target=None if gauss_newton else target,
        row_weight=scale,
        memory=memory if memory == "64MiB" else 2 * memory,  # three tiles
    )
    at, along = (tuple(map(torch.from_numpy, a)) for a in ((weight, bias, features), (direction, turned, moved)))
    s, y = torch.from_numpy(scale), torch.from_numpy(target)

    def logits(w, b, x):
        return x @ w.T + b

    def loss(w, b, x):
        return (s * ll.cross_entropy(logits(w, b, x), y)).sum()

    if gauss_newton:
        (w, _, x), (dw, db, dx) = at, along
        change, p = x @ dw.T + db + dx @ w.T, torch.softmax(logits(*at), 1)
        bent = s[:, None] * p * (change - (p * change).sum(1, keepdim=True))
        want = bent.T @ x, bent.sum(0), bent @ w
    else:
        want = torch.autograd.functional.hvp(loss, at, along)[1]
    for part, exact in zip(found, want, strict=True):
        np.testing.assert_allclose(part, exact, rtol=0, atol=1e-12 * float(exact.abs().max()))


def test_a_direction_common_to_all_classes_changes_nothing():
    features, weight, *_ = problem()
    found = linear_hessian_product(features, weight, np.ones_like(weight))
    assert np.abs(found.weight).max() < 1e-12 and found.bias is None


def test_a_masked_class_and_an_empty_row_add_nothing():
    features, weight, direction, bias, *_ = problem()
    bias[:100] = -np.inf
    found = linear_hessian_product(features, weight, direction, bias=bias, memory=SMALL)
    assert (found.weight[:100] == 0).all() and np.isfinite(found.weight).all()
    kept = linear_hessian_product(features, weight[100:], direction[100:], bias=bias[100:])
    np.testing.assert_allclose(found.weight[100:], kept.weight, rtol=0, atol=1e-13)
    empty = linear_hessian_product(features, weight, direction, bias=np.full(300, -np.inf))
    assert (empty.weight == 0).all() and (empty.bias == 0).all()


def test_a_wrong_call_gets_a_sentence():
    features, weight, direction, _, turned, _ = problem()
    with pytest.raises(ValueError, match=r"linear_hessian_product: direction is as weight, \(300, 5\); it is \(5, 5\)"):
        linear_hessian_product(features, weight, direction[:5])
    with pytest.raises(ValueError, match="bias_direction goes with a bias"):
        linear_hessian_product(features, weight, direction, bias_direction=turned)
    with pytest.raises(ValueError, match=r"features_direction is as features, \(60, 5\); it is \(300, 5\)"):
        linear_hessian_product(features, weight, direction, features_direction=direction)
    with pytest.raises(ValueError, match="a target enters with a features_direction"):
        linear_hessian_product(features, weight, direction, target=np.zeros(60, int))
    with pytest.raises(ValueError, match="smallest budget that works is memory="):
        linear_hessian_product(features, weight, direction, memory=100)
