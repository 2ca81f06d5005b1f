"""The bins of the predicted class, row by row: the kernel against its formula, and both against mpmath."""

import mpmath
import numpy as np
import pytest
from test_kernels import assert_same_bits, special_rows

import lastlayer as ll
from lastlayer import parallel
from lastlayer.kernels.cpu import top_label_bins as kernel
from lastlayer.measure._entries import top_label_bins

EDGES = np.linspace(0.0, 1.0, 16)


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 257])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_special_row_alone(classes, dtype):
    for row in special_rows(classes, dtype):
        for target in {0, classes // 2, classes - 1}:
            args = row[None], np.array([target]), np.array([2.0]), EDGES
            found = top_label_bins(*args)
            with ll.formulas():
                np.testing.assert_allclose(found, top_label_bins(*args), rtol=1e-15, atol=1e-15)


def test_confidence_is_exact_to_the_last_units():
    """Gaps from 0 to 750, where one exponential after the other is below the smallest number that counts."""
    for gap in np.concatenate([np.linspace(0, 40, 400), [100.0, 699.0, 701.0, 750.0]]):
        found = top_label_bins(np.array([[gap, 0.0, -0.3]]), np.array([1]), np.ones(1), EDGES)
        with mpmath.workdps(40):
            want = 1 / (1 + mpmath.exp(-mpmath.mpf(gap)) + mpmath.exp(-mpmath.mpf(gap) - mpmath.mpf(0.3)))
        assert abs(found[1].sum() - float(want)) <= 2 * np.spacing(float(want))


@pytest.mark.parametrize("edges", [EDGES, np.array([0.0, 0.5, 0.9, 0.99, 1.0]), np.linspace(0, 1, 1001)], ids=len)
def test_edges_belong_to_the_bin_below(edges):
    """Probabilities of exactly 1/2, 1/4 and 1, and many in between, by bins of any width."""
    rng = np.random.default_rng(0)
    z = np.concatenate(
        [np.zeros((1, 4)), [[0.0, 0.0, -np.inf, -np.inf]], [[9.0] + [-np.inf] * 3], rng.normal(size=(3000, 4))]
    )
    args = z, rng.integers(0, 4, len(z)), rng.choice([0.0, 1.0, 0.3], len(z)), edges
    args[2][:3] = 1.0
    found = top_label_bins(*args)
    with ll.formulas():
        np.testing.assert_allclose(found, top_label_bins(*args), rtol=1e-12, atol=1e-13)


def test_layout_threads_and_tiles_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    z, y, w = (
        rng.normal(size=(2 * kernel.RANGE + 77, 3)).astype(np.float32),
        rng.integers(0, 3, 2 * kernel.RANGE + 77),
        None,
    )
    w = rng.uniform(size=len(z))
    want = top_label_bins(z, y, w, EDGES)
    for layout in (np.asfortranarray(z), np.repeat(z, 2, 1)[:, ::2], z.astype(z.dtype.newbyteorder())):
        assert_same_bits([top_label_bins(layout, y, w, EDGES)], [want])
    for threads in (1, 3):
        monkeypatch.setattr(parallel, "workers", lambda n=threads: n)
        monkeypatch.setattr(parallel, "_pool", None)
        assert_same_bits([top_label_bins(z, y, w, EDGES)], [want])
    monkeypatch.setattr(kernel, "ENTRIES", 3 * 100)
    np.testing.assert_allclose(top_label_bins(z, y, w, EDGES), want, rtol=1e-12)
    with ll.formulas():
        np.testing.assert_allclose(top_label_bins(z, y, w, EDGES), want, rtol=1e-12)
    assert (top_label_bins(z[:0], y[:0], w[:0], EDGES) == 0).all()
