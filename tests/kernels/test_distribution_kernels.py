"""The kernels of log_softmax, entropy, top_k and binary cross-entropy: values, slopes, and the same bits anywhere."""

from typing import Any

import numpy as np
import pytest
from test_kernels import assert_same_bits
from test_row_kernels import rows_of, units

import lastlayer as ll
from lastlayer import kernels, parallel
from lastlayer.kernels.cpu import max_rest
from lastlayer.transform import top_k

LENGTHS = [1, 2, 3, 10, 31, 32, 63, 64, 65, 257, 2049, 5000]  # around the tile, the vector step and the block
WEIGHT = 2.5


def labels_of(x):
    return np.random.default_rng(x.shape[-1]).integers(0, 2, x.shape)


FUNCTIONS = {
    "log_softmax": ll.log_softmax,
    "log_softmax, uniform": lambda x: ll.log_softmax(x, empty="uniform"),
    "entropy": ll.entropy,
    "top_k": lambda x: top_k(x, 3),
    "binary_cross_entropy": lambda x: ll.binary_cross_entropy(x, labels_of(x)),
    "binary_cross_entropy, weighed": lambda x: ll.binary_cross_entropy(x, labels_of(x), pos_weight=WEIGHT),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")


def by_formula(function, *args):
    with ll.formulas():
        return function(*args)


@pytest.mark.parametrize("classes", LENGTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_the_formula_in_float64(name, classes):
    x = rows_of(classes)
    want = by_formula(FUNCTIONS[name], x.astype(np.float64))
    found, wide = FUNCTIONS[name](x), FUNCTIONS[name](x.astype(np.float64))
    assert (found.dtype, wide.dtype) == (np.float32, np.float64)
    assert units(found, want) <= 4
    np.testing.assert_allclose(wide, want, rtol=8 * 2.0**-52, atol=1e-300)


@pytest.mark.parametrize("classes", [3, 10, 31, 32, 65, 1000, 2049])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_has_the_same_bits_in_any_block_and_layout(name, classes, dtype, monkeypatch):
    x, function = rows_of(classes, 300).astype(dtype), FUNCTIONS[name]
    if "binary" in name:  # the same labels in each row
        weight = 1.0 if name == "binary_cross_entropy" else np.linspace(1, 2, classes)

        def function(x):
            return ll.binary_cross_entropy(
                x, np.zeros(x.shape, bool) ^ (np.arange(classes) % 2 == 0), pos_weight=weight
            )

    want = function(x)
    for i in range(0, len(x), 37):
        assert_same_bits([function(x[i : i + 1]), function(x[i])], [want[i : i + 1], want[i]])
    assert_same_bits([np.ascontiguousarray(function(x[::-1])[::-1])], [want])
    wide = np.zeros((2 * len(x), 3 * classes), dtype)
    wide[::2, ::3] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    for strange in (wide[::2, ::3], np.asfortranarray(x), x.astype(x.dtype.newbyteorder()), frozen, odd):
        before = strange.tobytes()
        assert_same_bits([function(strange)], [want])
        assert strange.tobytes() == before
    monkeypatch.setattr(max_rest, "RANGE", 100 * classes)
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "workers", lambda n=threads: n)
        monkeypatch.setattr(parallel, "_pool", None)
        assert_same_bits([function(x)], [want])


@pytest.mark.parametrize("classes", [3, 70])
@pytest.mark.parametrize("held", [[0.0], [np.inf, 1.0], [-np.inf, 2.0], [-np.inf]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_of_either_sign_stays_in_its_row(classes, held, dtype):
    for nan in (dtype(np.nan), -dtype(np.nan)):
        x = np.resize(np.array(held, dtype), (5, classes)).copy()
        x[[0, 2, 3, 4]] = np.arange(classes)
        x[1, classes // 2] = nan
        for function in (ll.log_softmax, ll.entropy, FUNCTIONS["top_k"]):
            found = np.isnan(function(x)).reshape(5, -1)
            assert found[1].all()
            assert not found[[0, 2, 3, 4]].any()
        cost = np.isnan(ll.binary_cross_entropy(x, labels_of(x)))
        assert cost[1, classes // 2]
        assert cost.sum() == 1


def test_classes_on_another_axis_and_further_axes():
    x = np.random.default_rng(0).normal(size=(4, 5, 40)).astype(np.float32)
    moved = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    assert_same_bits([ll.entropy(moved, axis=1)], [ll.entropy(x)])
    assert_same_bits([np.moveaxis(ll.log_softmax(moved, axis=1), 1, -1)], [ll.log_softmax(x)])
    labels = labels_of(x)
    for i in range(4):
        assert_same_bits([top_k(x, 3)[i]], [top_k(x[i], 3)])
        assert_same_bits([ll.binary_cross_entropy(x, labels)[i]], [ll.binary_cross_entropy(x[i], labels[i])])
    for function in FUNCTIONS.values():
        assert function(x[:0]).size == 0


def test_a_temperature_takes_the_formula():
    x = rows_of(10)
    for temperature in (2.0, np.ones((len(x), 1))):

        def tempered(x, temperature: Any = temperature):
            return ll.log_softmax(x, temperature=temperature)

        assert_same_bits([tempered(x)], [by_formula(tempered, x)])


# The k largest.


def kept_by_hand(row, k):
    """Python's sort is stable, and takes the zeros as equal."""
    if np.isnan(row).any():
        return np.full_like(row, np.nan)
    first = sorted(range(len(row)), key=lambda i: -row[i])[:k]
    return np.where(np.isin(np.arange(len(row)), first), row, -np.inf)


@pytest.mark.parametrize("classes", [1, 2, 10, 31, 32, 64, 200, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_k_largest_are_kept_and_of_equals_the_first(classes, dtype):
    rng = np.random.default_rng(classes)
    ties = rng.integers(-2, 3, (6, classes)) * rng.choice([-1.0, 1.0], (6, classes))  # zeros of either sign
    x = np.concatenate([rows_of(classes), ties]).astype(dtype)
    x = np.concatenate([x, np.where(x == 0, -x, x), np.nextafter(x[-6:], np.inf)])
    for k in {1, 2, 8, classes // 2 + 1, classes, classes + 5}:
        found = top_k(x, k)
        assert_same_bits(
            [np.where(np.isnan(found), 0, found)],
            [
                np.nan_to_num(
                    np.array([kept_by_hand(row, k) for row in x], dtype), nan=0.0, posinf=np.inf, neginf=-np.inf
                )
            ],
        )
        np.testing.assert_array_equal(np.isnan(found), np.isnan(x).any(1, keepdims=True) & np.ones(x.shape, bool))


@pytest.mark.parametrize("k", [0, -1, True])
def test_k_is_a_whole_number_of_at_least_1(k):
    with pytest.raises(ValueError, match="top_k: k is a whole number of at least 1"):
        top_k(np.zeros((2, 3), np.float32), k)


# Binary cross-entropy.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7,), (5000,), (40, 3), (3, 5000), (2, 3, 4)])
def test_weights_and_entries_that_do_not_count(dtype, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 9, shape).astype(dtype)
    soft, valid = rng.uniform(size=shape), rng.random(shape) < 0.7
    x[~valid] = np.resize([np.nan, np.inf, -np.inf], (~valid).sum())
    soft[~valid] = -100
    per_label = rng.uniform(0, 2, shape[-1])
    for target in (soft.astype(dtype), np.round(soft).astype(int), soft > 0.5):
        for weight in (None, 3, per_label, per_label[:1], np.zeros(shape[-1])):

            def loss(x, target=target, weight=weight):
                return ll.binary_cross_entropy(x, target, pos_weight=weight, valid=valid)

            found, want = loss(x), by_formula(loss, x.astype(np.float64))
            np.testing.assert_allclose(found, want, rtol=4 * np.finfo(dtype).eps, atol=1e-37)
            assert (found[~valid] == 0).all()


def test_targets_that_are_refused_or_nan():
    x = np.zeros((3, 4), np.float32)
    for value in (-0.5, 1.5, -np.inf):
        target = np.zeros((3, 4))
        target[1, 2], target[0, 0] = value, np.nan
        with pytest.raises(ValueError, match="target is 0, 1 or between"):
            ll.binary_cross_entropy(x, target)
    run = kernels.resolve("lastlayer.kernels.cpu.binary_cross_entropy:run")
    for shape in ((4,), (3, 5), (12,)):
        assert run(x, np.zeros(shape)) is NotImplemented  # the formula says why
        assert run(x, x, valid=np.ones(shape, bool)) is NotImplemented
    assert run(x, x, pos_weight=np.ones((2, 3, 4))) is NotImplemented
    target = np.zeros((3, 4))
    target[1, 2] = np.nan
    assert np.isnan(ll.binary_cross_entropy(x, target)).sum() == 1


# PyTorch.


@pytest.mark.parametrize("classes", [1, 3, 31, 32, 100, 3000])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slopes_are_those_of_the_formula_in_float64(name, classes, dtype, torch):
    x = rows_of(classes)
    given = torch.from_numpy(x).to(getattr(torch, dtype)).requires_grad_()
    wide = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    y, exact = FUNCTIONS[name](given), by_formula(FUNCTIONS[name], wide)
    seed = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(y.shape))).float()
    (found,) = torch.autograd.grad(y, given, seed.to(y.dtype))
    (want,) = torch.autograd.grad(exact, wide, seed.double())
    assert found.dtype == given.dtype
    found, want = found.numpy().astype(float), want.numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    size = np.maximum(np.nan_to_num(np.abs(want)).max(-1, keepdims=True), np.abs(seed.numpy()).max())
    info = np.finfo(dtype)
    assert (np.nan_to_num(np.abs(found - want)) <= 16 * info.eps * size + info.tiny).all()


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_slope_of_one_log_probability_keeps_the_tail(classes, dtype, torch):
    """Of a class that is nearly sure it is rest / (1 + rest), which 1 - p would have as 0."""
    x = np.zeros((2, classes), dtype)
    x[:, 1] = 60.0
    given = torch.from_numpy(x).requires_grad_()
    (slope,) = torch.autograd.grad(ll.log_softmax(given)[:, 1].sum(), given)
    rest = (classes - 1) * np.exp(-60.0)
    np.testing.assert_allclose(slope[:, 1], rest / (1 + rest), rtol=1e-6)
    np.testing.assert_allclose(slope[:, 0], -np.exp(-60.0), rtol=1e-6)


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("function", [ll.log_softmax, ll.entropy], ids=lambda f: f.__name__)
def test_an_empty_row_has_no_slope_whatever_comes_back_to_it(function, classes, torch):
    x = torch.full((2, classes), -torch.inf).requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y, x, torch.full_like(y, torch.nan))
    assert (slope == 0).all()


def test_an_entry_that_does_not_count_has_no_slope_whatever_comes_back_to_it(torch):
    x = torch.tensor([[0.0, torch.nan], [torch.inf, 2.0]], requires_grad=True)
    valid = torch.tensor([[True, False], [False, True]])
    y = ll.binary_cross_entropy(x, torch.tensor([[1, -100], [7, 0]]), valid=valid)
    back = torch.tensor([[1.0, torch.nan], [torch.inf, 1.0]])
    (slope,) = torch.autograd.grad(y, x, back)
    assert (slope[~valid] == 0).all()
    torch.testing.assert_close(slope[valid], torch.tensor([-0.5, 1 / (1 + np.exp(-2))], dtype=torch.float32))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_go_through_the_formula(name, torch):
    x, results = np.random.default_rng(0).normal(size=(3, 5)), []
    for run in (FUNCTIONS[name], lambda z: by_formula(FUNCTIONS[name], z)):
        z = torch.tensor(x, requires_grad=True)
        y = run(2 * z)
        y = torch.where(y > -torch.inf, y, 0.0)
        (slope,) = torch.autograd.grad(y.pow(2).sum(), z, create_graph=True)
        (second,) = torch.autograd.grad((slope * torch.arange(5.0)).sum(), z, create_graph=True)
        (third,) = torch.autograd.grad(second.pow(2).sum(), z, allow_unused=True, materialize_grads=True)
        results.append([part.detach().numpy() for part in (slope, second, third)])
    for found, want in zip(*results, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_and_arrays_get_the_same_bits_without_a_copy(name, torch):
    x = rows_of(40)
    before = x.copy()
    found = FUNCTIONS[name](torch.from_numpy(x))
    assert type(found) is torch.Tensor
    assert_same_bits([found.numpy(), x], [FUNCTIONS[name](x), before])
    recorded = FUNCTIONS[name](torch.from_numpy(x).requires_grad_())
    assert recorded.requires_grad
    assert_same_bits([recorded.detach().numpy()], [found.numpy()])


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_the_float32_of_its_numbers(name, half, torch):
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 3, size=(6, 50))).to(getattr(torch, half)).requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, exact = FUNCTIONS[name](x), FUNCTIONS[name](wide)
    assert y.dtype == (torch.float32 if "binary" in name else x.dtype)
    assert torch.equal(y, exact.to(y.dtype))
    seed = torch.ones_like(y)
    (slope,) = torch.autograd.grad(y, x, seed)
    (want,) = torch.autograd.grad(exact, wide, seed.float())
    assert slope.dtype == x.dtype
    assert torch.equal(slope, want.to(x.dtype))


@pytest.mark.parametrize("half", ["float16", "bfloat16", "float32"])
def test_targets_and_weights_of_other_dtypes(half, torch):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32))
    soft, weight = torch.rand(6, 8).to(getattr(torch, half)), torch.linspace(0, 2, 8).to(getattr(torch, half))
    found = ll.binary_cross_entropy(x, soft, pos_weight=weight)
    assert torch.equal(found, ll.binary_cross_entropy(x, soft.float(), pos_weight=weight.float()))
    learnt = soft.float().requires_grad_()
    assert ll.binary_cross_entropy(x, learnt).requires_grad  # by the formula


@pytest.mark.parametrize("name", ["log_softmax", "entropy", "top_k", "binary_cross_entropy"])
def test_both_precisions_and_halves_have_a_kernel(name, torch):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert kernels.choose(name, torch.zeros((2, 3), dtype=dtype)) is not None
