"""The kernels of tiles equal their formulas, on usual rows and on those of the special-value contract."""

import numpy as np
import pytest

import lastlayer.kernels.cpu.head_rows as kernels
from lastlayer.linear import tile as formulas


def rows_of(classes):
    rng = np.random.default_rng(classes)
    rows = [rng.normal(scale=scale, size=classes) for scale in (0.1, 4, 40)]
    rows += [np.zeros(classes), np.full(classes, -3.5), np.arange(classes) / 8, -np.arange(classes) / 8]
    dominant = rng.normal(scale=0.01, size=classes)
    dominant[classes // 3] += 60
    masked = rng.normal(size=classes)
    masked[: classes // 2] = -np.inf
    infinite = rng.normal(size=classes)
    infinite[[0, -1]] = np.inf
    half_infinite = masked.copy()
    half_infinite[-1] = np.inf
    rows += [dominant, masked, np.full(classes, -np.inf), infinite, half_infinite]
    for sign in (1.0, -1.0):  # the nan that inf - inf makes has its sign set
        rows.append(rng.normal(size=classes))
        rows[-1][classes // 2] = np.copysign(np.nan, sign)
    return np.array(rows, np.float32)


def tile_of(classes, kind):
    rows = rows_of(classes)
    if kind == "float32":
        return rows
    tile = np.empty(rows.shape, np.uint16)
    formulas.written(tile, rows)
    return tile


@pytest.fixture(params=[1, 2, 3, 17, 256, 257, 5000])
def classes(request):
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def tile(request, classes):
    return tile_of(classes, request.param)


def quiet(function, *args):
    with np.errstate(all="ignore"):
        return function.__wrapped__(*args)


def test_bfloat16_is_written_as_pytorch_writes_it():
    torch = pytest.importorskip("torch")
    x = np.concatenate([rows_of(5000).ravel(), np.float32([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-40])])
    tile = np.empty(x.shape, np.uint16)
    formulas.written(tile, x)
    want = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(formulas.logits_of(tile), want.double().numpy())


def test_parts(tile):
    found, want = kernels.parts(tile), quiet(formulas.head_parts, tile)
    np.testing.assert_array_equal(found[0], want[0])
    np.testing.assert_allclose(found[1:], want[1:], rtol=2e-6, atol=1e-37)


def test_totals(tile):
    largest = quiet(formulas.head_parts, tile)[0]
    found, want = kernels.totals(tile, largest), quiet(formulas.head_totals, tile, largest)
    usual = ~np.isnan(largest)
    np.testing.assert_allclose(found[:, usual], want[:, usual], rtol=2e-6)


@pytest.mark.parametrize("curve", [0.0, 1 / 30**2])
def test_slopes(tile, curve):
    rng = np.random.default_rng(0)
    largest = quiet(formulas.head_parts, tile)[0]
    a, b, u = rng.normal(size=(3, len(tile)))
    want, logits = tile.copy(), formulas.logits_of(tile)
    kernels.slopes(tile, largest, a, b, u, curve)
    quiet(formulas.head_slopes, want, largest, a, b, u, curve)
    found, want = formulas.logits_of(tile), formulas.logits_of(want)
    with np.errstate(all="ignore"):
        d = logits - largest[:, None]
        size = np.nan_to_num(np.exp(d) * (abs(a)[:, None] + abs(b)[:, None] * abs(d)), posinf=0) + abs(u)[:, None]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    room = 2**-8 if tile.dtype == np.uint16 else 1e-6  # of bfloat16 one unit: a half may fall on either side
    assert (
        np.nan_to_num(abs(found - want)) <= room * (size * (1 + curve * np.nan_to_num(logits, posinf=0, neginf=0) ** 2))
    ).all()


def test_ranks(tile):
    rng = np.random.default_rng(0)
    n, classes = tile.shape
    target = rng.integers(-2, classes + 2, n)
    at = formulas.logits_of(tile)[np.arange(n), np.clip(target, 0, classes - 1)]
    np.testing.assert_array_equal(kernels.ranks(tile, at, target), quiet(formulas.head_ranks, tile, at, target))


def compared(tile, k, at, target):
    """Both ways of `head_stats`, of which the first two are checked."""
    found, want = kernels.stats(tile, k, at, target), quiet(formulas.head_stats, tile, k, at, target)
    np.testing.assert_array_equal(found[0][0], want[0][0])
    np.testing.assert_allclose(found[0], want[0], rtol=2e-6, atol=1e-37)
    np.testing.assert_array_equal(found[1], want[1])
    return zip(found[2:], want[2:], strict=True)


@pytest.mark.parametrize("k", [0, 1, 8])
def test_stats(tile, k):
    tile, k = tile[:-2], min(k, tile.shape[1])  # a row with a nan has no order
    target = np.random.default_rng(0).integers(0, tile.shape[1], len(tile))
    at = formulas.logits_of(tile)[np.arange(len(tile)), target]
    for found, want in compared(tile, k, at, target):
        assert found.dtype == want.dtype
        np.testing.assert_array_equal(found, want)


def test_stats_of_ties(classes):
    """Few numbers, both zeros among them: the first of equals stands first, and no column is passed over."""
    rng = np.random.default_rng(classes)
    tile = rng.choice(np.float32([-2.0, -1.0, -0.0, 0.0]), (40, classes))
    for found, want in compared(tile, min(8, classes), None, None):
        np.testing.assert_array_equal(found, want)


def test_rows_have_the_same_bits_whatever_their_neighbours(tile):
    whole = kernels.parts(tile)
    for i in range(len(tile)):
        assert kernels.parts(tile[i : i + 1].copy())[:, 0].tobytes() == whole[:, i].copy().tobytes()
