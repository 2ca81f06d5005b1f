"""The one read of row_stats: against the formula in float64, and the same bits anywhere."""

import numpy as np
import pytest
from test_kernels import assert_same_bits
from test_row_kernels import rows_of, targets_of, units

import lastlayer as ll
from lastlayer import kernels, parallel
from lastlayer.kernels.cpu import max_rest, row_statistics

LENGTHS = [1, 2, 3, 10, 31, 32, 63, 64, 65, 257, 511, 513, 1100, 2049, 5000]  # around tile, step, span and block
EVERY = ("logp", "lse", "entropy", "argmax", "rank", "topk:1", "topk:9", "top2_gap", "max_prob")


def every(classes):
    return tuple(name for name in EVERY if name != "topk:9" or classes >= 9)


def columns(found):
    """All arrays of a result, in order."""
    return [a for each in found.values() for a in (each if isinstance(each, ll.transform.TopK) else [each])]


def by_formula(x, target, want):
    with ll.formulas():
        return ll.row_stats(x, want, target)


def usual_and_special(classes):
    """Special rows; rows without a positive entry; and rows of few values, in which nearly all are equal."""
    x = rows_of(classes)
    coarse = np.round(x[np.isfinite(x).all(1) & (np.abs(x).max(1) < 1e3)])
    return np.concatenate([x, -np.abs(x), coarse, -np.abs(coarse) - 1, coarse * np.float32(0)])


@pytest.mark.parametrize("classes", LENGTHS)
def test_values_are_those_of_the_formula_in_float64(classes):
    x, want = usual_and_special(classes), every(classes)
    least = np.nan_to_num(x, nan=0.0).argmin(1)
    for target in (targets_of(x), least, np.full(len(x), classes - 1)):
        exact = by_formula(x.astype(np.float64), target, want)
        found, wide = ll.row_stats(x, want, target), ll.row_stats(x.astype(np.float64), want, target)
        for name in want:
            arrays = (each[name] if name.startswith("topk") else [each[name]] for each in (found, wide, exact))
            for a, b, c in zip(*arrays, strict=True):
                if c.dtype.kind == "i":
                    np.testing.assert_array_equal(a, c, err_msg=name)
                    np.testing.assert_array_equal(b, c, err_msg=name)
                    continue
                assert (a.dtype, b.dtype) == (np.float32, np.float64)
                if name == "lse":  # it may cancel to nothing: below
                    continue
                np.testing.assert_allclose(b, c, rtol=8 * 2.0**-52, atol=1e-300, err_msg=name)
                assert units(a, c) <= 4, name


@pytest.mark.parametrize("classes", LENGTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_normaliser_has_the_bits_of_logsumexp_and_the_target_those_of_cross_entropy(classes, dtype):
    x = usual_and_special(classes).astype(dtype)
    target = targets_of(x)
    found = ll.row_stats(x, ("lse", "logp"), target)
    assert_same_bits(*([np.where(np.isnan(a), np.nan, a)] for a in (found["lse"], ll.logsumexp(x))))  # -nan is nan
    np.testing.assert_array_equal(found["logp"], -ll.cross_entropy(x, target))


@pytest.mark.parametrize("classes", [256, 500, 1000])
def test_many_small_terms_beside_one_large_entry(classes):
    """Each is rounded to the unit of a sum that grows: 6 units of one sum for 32 vectors."""
    rng = np.random.default_rng(5)
    for scale in (0.01, 0.1, 1.0, 3.0):
        x = rng.normal(scale=scale, size=(300, classes))
        x[:150, 0] += np.linspace(5, 12, 150)
        for rows in (x.astype(np.float32), np.round(4 * x).astype(np.float32) / 4):
            target, want = targets_of(rows), ("logp", "entropy", "max_prob")
            found, exact = ll.row_stats(rows, want, target), by_formula(rows.astype(np.float64), target, want)
            for name in want:
                assert units(found[name], exact[name]) <= 4, name


@pytest.mark.parametrize("classes", [3, 10, 31, 32, 65, 1000, 2049])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_has_the_same_bits_in_any_block_and_layout(classes, dtype, monkeypatch):
    x, names = rows_of(classes, 300).astype(dtype), every(classes)
    target = targets_of(x)

    def run(x, target=target):
        return columns(ll.row_stats(x, names, target))

    want = run(x)
    for i in range(0, len(x), 37):
        assert_same_bits(run(x[i : i + 1], target[i : i + 1]), [a[i : i + 1] for a in want])
        assert_same_bits(run(x[i], target[i]), [a[i] for a in want])
    assert_same_bits([np.ascontiguousarray(a[::-1]) for a in run(x[::-1], target[::-1])], want)
    wide = np.zeros((2 * len(x), 3 * classes), dtype)
    wide[::2, ::3] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    for strange in (wide[::2, ::3], np.asfortranarray(x), x.astype(x.dtype.newbyteorder()), frozen, odd):
        before = strange.tobytes()
        assert_same_bits(run(strange), want)
        assert strange.tobytes() == before
    assert_same_bits(run(x, target.astype(">i4")), want)
    monkeypatch.setattr(max_rest, "RANGE", 100 * classes)
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "workers", lambda n=threads: n)
        monkeypatch.setattr(parallel, "_pool", None)
        assert_same_bits(run(x), want)


@pytest.mark.parametrize("classes", [10, 40, 700])
def test_any_subset_is_the_same_bits(classes):
    x, names = rows_of(classes), every(classes)
    target = targets_of(x)
    whole = ll.row_stats(x, names, target)
    for name in names:
        assert_same_bits(columns(ll.row_stats(x, (name,), target)), columns({name: whole[name]}))


@pytest.mark.parametrize("classes", [3, 70, 600])
def test_a_nan_of_either_sign_is_seen_anywhere(classes):
    for nan in (np.float32(np.nan), -np.float32(np.nan)):
        for at in (0, classes // 2, classes - 1):
            for fill in (1.0, -1.0, np.inf, -np.inf):
                x = np.full((3, classes), fill, np.float32)
                x[1, at] = nan
                found = ll.row_stats(x, ("lse", "argmax", "rank", "entropy"), np.zeros(3, int))
                assert np.isnan(found["lse"]).tolist() == [False, True, False]
                assert (found["argmax"][1], found["rank"][1]) == (-1, classes)


def test_half_precision_is_the_float32_of_its_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install ml_dtypes")
    numbers = np.random.default_rng(0).normal(size=(40, 70)).astype(np.float32)
    numbers[0, 1], numbers[1, 0], numbers[2], numbers[3, 3] = -np.inf, np.inf, -np.inf, np.nan
    target = np.arange(40)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.dtype(">f2")):
        x = numbers.astype(dtype)
        want = columns(ll.row_stats(x.astype(np.float32), EVERY, target))
        assert_same_bits(columns(ll.row_stats(x, EVERY, target)), want)
        assert_same_bits(
            columns(ll.row_stats(x[:, ::2], ("lse", "topk:3"))),
            columns(ll.row_stats(x[:, ::2].astype(np.float32), ("lse", "topk:3"))),
        )


# PyTorch.


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_and_arrays_get_the_same_bits_with_and_without_a_slope(dtype, torch):
    x = torch.from_numpy(rows_of(40)).to(getattr(torch, dtype))
    target = targets_of(rows_of(40))
    wide = x.numpy() if dtype in ("float32", "float64") else x.float().numpy()
    want = columns(ll.row_stats(wide, EVERY, target))
    for given in (x, x.clone().requires_grad_()):
        found = columns(ll.row_stats(given, EVERY, torch.from_numpy(target)))
        assert all(type(a) is torch.Tensor for a in found)
        assert_same_bits([a.detach().numpy() for a in found], want)


def test_transforms_take_the_formula_and_plain_tensors_the_kernel(torch, monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32))
    want = ll.row_stats(x)["entropy"]
    mapped = torch.func.vmap(lambda z: ll.row_stats(z, ("entropy",))["entropy"])(x)
    torch.testing.assert_close(mapped, want, rtol=1e-5, atol=1e-6)
    assert ll.row_stats(x.to("meta"), ("lse", "argmax"))["argmax"].shape == (4,)
    assert kernels.choose("row_statistics", x) is row_statistics.run
    with ll.formulas():
        assert kernels.choose("row_statistics", x) is None


def test_the_slope_of_a_sure_row_keeps_its_tail(torch):
    x = torch.zeros((2, 50))
    x[:, 3] = 60.0
    x.requires_grad_()
    found = ll.row_stats(x, ("logp", "max_prob"), torch.tensor([3, 3]))
    (slope,) = torch.autograd.grad(found["logp"].sum(), x)
    np.testing.assert_allclose(slope[:, 3], 49 * np.exp(-60.0), rtol=1e-5)
    np.testing.assert_allclose(slope[:, 4], -np.exp(-60.0), rtol=1e-5)
