"""Vectors in compiled code, each step against NumPy, at the ends of rows above all."""

import subprocess
import sys

import numba
import numpy as np
import pytest

from lastlayer.kernels.cpu.lanes import (
    BYTES,
    highest,
    lanes,
    larger,
    load,
    load_part,
    store,
    store_part,
    total,
    turn,
    where_below,
    where_same,
)


@numba.njit
def turned_all(x, into, step):
    for i in range(0, into.shape[1], step):
        for k in range(0, into.shape[0], step):
            turn(x, (i, k), into, (k, i))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (16, 16), (17, 15), (40, 31), (8, 9)])
def test_a_table_is_turned_and_nothing_beyond_it_is_written(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    room = np.full(x.size + 64, 7, dtype)
    into = room[: x.size].reshape(shape[::-1])
    turned_all(x, into, BYTES // x.itemsize)
    np.testing.assert_array_equal(into, x.T)
    assert (room[x.size :] == 7).all()


@numba.njit
def parts(x, i, j, fill, into):
    v = load_part(x, (i, j), fill)
    store_part(into, (i, j), v + v)
    return total(v), highest(v)


def test_the_end_of_a_row_is_filled_up_and_the_next_row_stays():
    x = np.arange(40, dtype=np.float32).reshape(2, 20)
    into = np.zeros_like(x)
    assert parts(x, 0, 16, -9.0, into) == (16 + 17 + 18 + 19 - 12 * 9, 19)
    np.testing.assert_array_equal(into[0, 16:], 2 * x[0, 16:])
    assert (into[0, :16] == 0).all() and (into[1] == 0).all()


@numba.njit
def chosen(x, y, out):
    v, w = load(x, 0), load(y, 0)
    store(out, (0, 0), larger(v, w))
    store(out, (1, 0), where_below(v, w, -v, w * w))
    store(out, (2, 0), where_same(v, w, 1.0, v - w))
    store(out, (3, 0), lanes(x[0]) + w)


def test_numbers_are_compared_as_numpy_does_and_nan_is_passed_over():
    x = np.array([1, 2, 3, np.nan, np.inf, -np.inf, 0.0, 5], np.float64)
    y = np.array([2, 2, 1, 4, 1, -np.inf, -0.0, np.nan])
    out = np.empty((4, 8))
    chosen(x, y, out)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out[0], np.where(x > y, x, y))
        np.testing.assert_array_equal(out[1], np.where(x < y, -x, y * y))
        np.testing.assert_array_equal(out[2], np.where(x == y, 1.0, x - y))
    np.testing.assert_array_equal(out[3], x[0] + y)


def test_the_sum_of_a_vector_of_float32_is_one_of_float64():
    x = np.array([[2.0**24] + [1.0] * 15], np.float32)
    assert parts(x, 0, 0, 0.0, np.empty_like(x))[0] == 2.0**24 + 15


def test_who_asks_for_float32_does_not_wait_for_float64():
    code = (
        "import numpy as np, lastlayer as ll; ll.logsumexp(np.zeros((2, 40), np.float32))\n"
        "from lastlayer.kernels.cpu.logsumexp import values; print([str(s[0].dtype) for s in values.signatures])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['float32']"
