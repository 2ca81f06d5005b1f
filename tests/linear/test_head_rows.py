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


def parts_of(function, *tiles, target=None):
    """The sums of tiles whose classes follow each other."""
    found = np.zeros((4, len(tiles[0])))
    found[[0, 3]] = -np.inf  # the largest entry, and the logit of the target
    target = np.zeros(len(tiles[0]), np.int64) if target is None else target
    for tile in tiles:
        function(tile, target, *found)
        target = target - tile.shape[1]
    return found


def formula(*args):
    quiet(formulas.head_parts, *args)


def alike(found, want):
    np.testing.assert_array_equal(found[[0, 3]], want[[0, 3]])
    np.testing.assert_allclose(found[1:3], want[1:3], rtol=2e-6, atol=1e-37)


def test_parts(tile):
    target = np.random.default_rng(0).integers(-2, tile.shape[1] + 2, len(tile))
    alike(parts_of(kernels.parts, tile, target=target), parts_of(formula, tile, target=target))


@pytest.mark.parametrize("function", [kernels.parts, formula])
def test_parts_of_tiles_are_those_of_all_classes(tile, function):
    classes = tile.shape[1]
    target = np.arange(len(tile)) % classes
    tiles = [tile[:, a : a + -(-classes // 3)].copy() for a in range(0, classes, -(-classes // 3))]
    alike(parts_of(function, *tiles, target=target), parts_of(formula, tile, target=target))


def test_totals(tile):
    largest = parts_of(formula, tile)[0]
    found, want = kernels.totals(tile, largest), quiet(formulas.head_totals, tile, largest)
    usual = ~np.isnan(largest)
    np.testing.assert_allclose(found[:, usual], want[:, usual], rtol=2e-6)


@pytest.mark.parametrize("curve", [0.0, 1 / 30**2])
def test_slopes(tile, curve):
    rng = np.random.default_rng(0)
    largest = parts_of(formula, tile)[0]
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


@pytest.mark.parametrize("b", [0.0, -0.5])
def test_a_slope_is_a_normal_number_or_0(b):
    """A product of matrices takes 20 times as long with subnormal ones."""
    tile = np.linspace(-120, 0, 4000, dtype=np.float32)[None].repeat(4, axis=0)
    a, none = np.array([1.0, 1e-3, 0.0, 1e-30]), np.zeros(4)
    want = np.exp(tile.astype(float)) * (a[:, None] + b * a[:, None] * tile)
    kernels.slopes(tile, none, a, b * a, none, 0.0)
    normal = np.finfo(np.float32).smallest_normal
    assert ((tile == 0) | (abs(tile) >= normal)).all()
    np.testing.assert_allclose(tile, want, rtol=2e-6, atol=float(normal) * (100 if b else 1.01))
    assert (tile[0] == 0).sum() < 0.3 * 4000


def test_slopes_that_are_known_are_written(tile):
    """Two picks of each row, of which some lie outside the tile."""
    rng = np.random.default_rng(0)
    n, classes = tile.shape
    largest, a, b, u = parts_of(formula, tile)[0], *rng.normal(size=(3, n))
    index = np.stack([np.arange(n) % (classes + 2) - 1, np.full(n, classes)], axis=1)
    spot, plain, want = rng.normal(size=(n, 2)), tile.copy(), tile.copy()
    kernels.slopes(plain, largest, a, b, u, 0.0)
    kernels.slopes(tile, largest, a, b, u, 0.0, index, spot)
    quiet(formulas.head_slopes, want, largest, a, b, u, 0.0, index, spot)
    inside = (np.arange(classes) == index[:, :1]) & (index[:, :1] >= 0)
    np.testing.assert_array_equal(tile[inside], want[inside])
    np.testing.assert_array_equal(tile[~inside], plain[~inside])
    rows = np.flatnonzero(inside.any(axis=1))
    exact = np.empty(len(rows), tile.dtype)
    formulas.written(exact, spot[rows, 0])
    np.testing.assert_array_equal(tile[rows, index[rows, 0]], exact)


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
    whole = parts_of(kernels.parts, tile)
    for i in range(len(tile)):
        assert parts_of(kernels.parts, tile[i : i + 1].copy())[:, 0].tobytes() == whole[:, i].copy().tobytes()
