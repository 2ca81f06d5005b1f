"""What `plan` says: tiles within the budget, the cheaper order of the loops, and sentences for what cannot be."""

import itertools

import numpy as np
import pytest

from lastlayer.linear import plan

ITEMSIZE = {"bfloat16": 2, "float32": 4, "float64": 8}


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
def test_every_tile_is_within_the_budget(dtype):
    for n, width, classes in itertools.product((1, 7, 512, 100_000), (1, 256), (1, 2, 1000, 256_000)):
        for memory in (2**20, 3 * 10**6, 2**26):
            for gradients in (True, False):
                found = plan((n, width), (classes, width), dtype=dtype, memory=memory, gradients=gradients)
                rows, wide = found.tile
                assert 1 <= rows <= n and 1 <= wide <= classes
                assert rows * wide * ITEMSIZE[dtype] <= found.peak <= memory
                assert found.sweeps == (1 if wide == classes else 2)
                for size, of in ((rows, n), (wide, classes)):  # vectors of 64 leave no rest
                    assert size == of or size < 64 or size % 64 == 0


def test_few_rows_a_tile_are_dearer_than_a_second_sweep():
    assert plan((512, 256), (16384, 256)).tile == (512, 16384)
    narrow = plan((512, 256), (16384, 256), memory=2**21)
    assert narrow.tile[0] == 512 and narrow.tile[1] < 1024 and narrow.sweeps == 2


def test_in_bfloat16_many_groups_of_rows_are_dearer():
    assert plan((1024, 512), (32000, 512), memory=2**23, dtype="float32").sweeps == 2
    assert plan((1024, 512), (32000, 512), memory=2**24, dtype="bfloat16").sweeps == 2
    assert plan((1024, 512), (32000, 512), memory=2**25, dtype="float32").sweeps == 1
    assert plan((1024, 512), (32000, 512), dtype="bfloat16").tile == (1024, 32000)


def test_products_are_counted():
    whole, blocks = plan((512, 256), (16384, 256)), plan((512, 256), (16384, 256), memory=2**21)
    one = 2 * 512 * 256 * 16384
    assert (whole.flops, blocks.flops) == (3 * one, 4 * one)
    assert plan((512, 256), (16384, 256), gradients=False).flops == one
    assert whole.bytes == 3 * 4 * (512 * 256 + 16384 * 256 + 512 * 16384)
    assert (whole.tiles, blocks.tiles) == (1, -(-16384 // blocks.tile[1]))


def test_arrays_are_as_good_as_their_shapes():
    x, w = np.zeros((4, 6, 8), np.float32), np.zeros((10, 8), np.float32)
    assert plan(x, w) == plan((24, 8), (10, 8), dtype="float32")
    for dtype, made in (("float64", "float64"), ("float16", "float32"), ("int32", "float64")):
        assert plan(x.astype(dtype), w).dtype == made


def test_a_budget_is_a_number_or_has_a_unit():
    sizes = {"64MiB": 2**26, "2 GB": 2 * 10**9, "1.5kib": 1536, "70000": 70000, 2**20: 2**20, "100000B": 100000}
    for memory, count in sizes.items():
        assert plan((2, 2), (3, 2), memory=memory).memory == count
    for wrong in ("64 apples", "MiB", "", 0, -5, 1.5, True, None):
        with pytest.raises(ValueError, match="memory is a number of bytes, or a string"):
            plan((2, 2), (3, 2), memory=wrong)


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
def test_the_smallest_budget_is_named_and_works(dtype):
    with pytest.raises(ValueError, match="the smallest budget that works is memory=") as caught:
        plan((1000, 32), (5000, 32), dtype=dtype, memory=100)
    smallest = int(str(caught.value).rpartition("=")[2].rstrip("."))
    assert plan((1000, 32), (5000, 32), dtype=dtype, memory=smallest).peak <= smallest
    with pytest.raises(ValueError, match=f"memory={smallest}"):
        plan((1000, 32), (5000, 32), dtype=dtype, memory=smallest - 1)


def test_shapes_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match="features end in 3 numbers, weight takes 4"):
        plan((5, 3), (10, 4))
    with pytest.raises(ValueError, match=r"weight is an array \(classes, width\)"):
        plan((5, 3), (10, 3, 1))
    with pytest.raises(ValueError, match="dtype is one of"):
        plan((5, 3), (10, 3), dtype="int8")


def test_a_plan_prints_what_it_will_do():
    text = str(plan((1024, 512), (32000, 512), memory="8MB"))
    for words in ("1,024 rows x 512 features x 32,000 classes, float32", "sweeps  2", "flops", "bytes", "of 7.6 MiB"):
        assert words in text
