"""The kernel of `linear.entries.head_entries` equals its formula, whatever targets, masks and weights are made of."""

import numpy as np
import pytest

import lastlayer.kernels.cpu.head_entries as kernels
from lastlayer.linear.entries import Entries, head_entries
from lastlayer.linear.tile import logits_of, written

ROWS, START, TABLE = 5, 3, 9  # the tile's rows are some of those of the tables, and it starts after their first columns


@pytest.fixture(params=[1, 17, 1030, 2100])
def classes(request):
    return request.param


def logits(classes, kind):
    """Usual rows, then one far out on both sides, and one with both infinities and a nan."""
    rng = np.random.default_rng(classes)
    z = rng.normal(scale=np.array([0.5, 3, 20, 80, 1])[:, None], size=(ROWS, classes)).astype(np.float32)
    z[-1, : classes // 2 : 3], z[-1, 1 : classes // 2 : 3] = np.inf, -np.inf
    if kind == "float32":
        return z
    tile = np.empty(z.shape, np.uint16)
    written(tile, z)
    return tile


def targets(classes, kind):
    rng = np.random.default_rng(0)
    y = rng.random((TABLE, classes + START + 2)) < 0.3
    if kind == "soft":
        return np.where(y, rng.random(y.shape), 0.0)
    if kind == "index":
        return rng.integers(0, y.shape[1], TABLE)
    return np.asfortranarray(y) if kind == "columns" else y.astype(kind)


def compared(tile, entries, step):
    index = np.array([7, 0, 2, 3, 4])
    want, found = tile.copy(), tile.copy()
    with np.errstate(all="ignore"):
        costs = head_entries.__wrapped__(want, entries, index, START, step)
    got = kernels.run(found, entries, index, START, step)
    np.testing.assert_allclose(got, costs, rtol=3e-6, atol=1e-37)
    if step is None:
        return
    room = 2**-7 if tile.dtype == np.uint16 else 2e-6  # of bfloat16 one unit: a half may fall on either side
    least = 1e-6 if entries.target.dtype == float else 1e-13  # between 0 and 1 yes and no may cancel
    np.testing.assert_allclose(logits_of(found), logits_of(want), rtol=room, atol=least)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["bool", "float32", "int64", "soft", "columns", "index"])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_kernel_equals_formula(classes, dtype, kind, gamma):
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.5, 2, classes + START + 2)
    weight[::5] = 0.0
    keep = rng.random((TABLE, classes + START + 2)) < 0.7
    for settings in ({}, {"keep": keep}, {"keep": keep, "always": True}):
        entries = Entries("f", targets(classes, kind), yes=weight, no=0.75, gamma=gamma, **settings)
        for step in (None, rng.normal(size=ROWS)):
            compared(logits(classes, dtype), entries, step)


def test_one_weight_for_all(classes):
    one = np.broadcast_to(np.float32(1.0), classes + START + 2)
    compared(logits(classes, "float32"), Entries("f", targets(classes, "bool"), yes=one), np.ones(ROWS))


def test_an_entry_that_does_not_count_is_not_looked_at():
    target, keep = np.zeros((1, 8)), np.ones((1, 8), bool)
    target[0, 5], keep[0, 5] = -1.0, False
    tile = np.zeros((1, 8), np.float32)
    tile[0, 5] = np.nan
    entries = Entries("f", target, keep, np.ones(8))
    found = kernels.run(tile, entries, np.array([0]), 0, np.ones(1))
    np.testing.assert_allclose(found, 7 * np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(tile[0], np.where(keep[0], 0.5, 0.0))


def test_what_the_kernel_leaves_to_the_formula():
    tile, index = np.zeros((1, 4), np.float32), np.array([0])
    for target, gamma in ((np.full((1, 4), 2.0), 0.0), (np.zeros((1, 4)), 1.5), (np.zeros((1, 4)), 40.0)):
        entries = Entries("f", target, yes=np.ones(4), gamma=gamma)
        assert kernels.run(tile.copy(), entries, index, 0, None) is NotImplemented
    with pytest.raises(ValueError, match="f: target is 0, 1 or between, not 2"):
        head_entries(tile, Entries("f", np.full((1, 4), 2.0), yes=np.ones(4)), index, 0, None)
