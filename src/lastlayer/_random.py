"""Random numbers as a function of (key, row, class), the same in every array library.

Nothing is drawn in turn, so nothing depends on what was drawn before: further rows or classes, another batch or another
library leave each number as it is. The bits are Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror & Shaw 2011,
"Parallel random numbers: as easy as 1, 2, 3"), from which JAX draws as well:

    (high, low) = threefry(key, counter = (row, class)),    v = (high + (low + 1/2) / 2^32) / 2^32

PyTorch has no arithmetic on uint32; there a word is an int64 between 0 and 2^32 - 1.
"""

import sys

from lastlayer._array import arange_like, as_array, dtype_name, is_jax, is_torch, namespace, readable, to_numpy
from lastlayer._check import shape

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MASK = 0xFFFFFFFF


def gumbel(function, key, like, xp):
    """One standard Gumbel number for each entry of ``like`` ``(*batch, classes)``, in its dtype.

    ``key`` is one integer, and then the numbers of a row follow from its position in the batch (counted in C order); or
    one integer per row, and then they follow from that key alone, as if the row stood at position 0. A JAX key counts
    as the integer that its two words spell.
    """
    (high, low), negative = _split(function, key, xp)
    batch = like.shape[:-1]
    if high.shape[:-1] not in ((), batch):
        raise ValueError(
            f"{function}: one key for all, or one per row of logits. logits {shape(like)} has rows {tuple(batch)}, "
            f"key is {shape(high[..., 0])}."
        )
    high, low = (_word(as_array(half, like=like), xp) for half in (high, low))
    column = _word(arange_like(like, xp), xp)
    row = xp.zeros_like(column[:1])
    if high.ndim == 1:
        row = _word(arange_like(xp.reshape(like[..., 0], (-1,)), xp), xp)
        row = xp.reshape(row, (*batch, 1))
    noise = from_words(*words((high, low), row, column, xp), like.dtype, xp)
    return noise if negative is None else xp.where(negative, xp.nan, noise)


def words(key, row, column, xp):
    """Threefry-2x32 with 20 rounds of the counter ``(row, column)`` under a key of two words: two words."""
    high, low = key
    schedule = (high, low, high ^ low ^ _PARITY)
    x, y = _word(row + high, xp), _word(column + low, xp)
    for block in range(5):
        for turn in _ROTATIONS[block % 2]:
            x = _word(x + y, xp)
            y = _word((y << turn) | (y >> (32 - turn)), xp) ^ x
        x = _word(x + schedule[(block + 1) % 3], xp)
        y = _word(y + (schedule[(block + 2) % 3] + (block + 1)), xp)
    return x, y


def from_words(high, low, dtype, xp):
    """``-log(-log v)`` of the fraction ``v`` that 64 bits spell, between -3.81 and 45.05.

    Above 3/4 it is ``-log(-log1p(-w))`` with ``w = 1 - v`` from the inverted bits: the rounded ``v`` would be 1 from
    2^-25 below it in float32, and no number would exceed 17. Not from 1/2 on: XLA's float64 log1p is off by 128 units
    between -0.45 and -0.3.
    """
    upper = (high >> 31) == 1
    high, low = (xp.where(upper, _word(~half, xp), half) for half in (high, low))
    nearest_end = xp.astype(high, dtype) * 2.0**-32 + (xp.astype(low, dtype) + 0.5) * 2.0**-64
    close = upper & (nearest_end < 0.25)
    fraction = xp.where(upper, 1 - nearest_end, nearest_end)
    return -xp.log(-xp.where(close, xp.log1p(-nearest_end), xp.log(fraction)))


def _word(x, xp):
    """Integers modulo 2^32, in the dtype that has arithmetic."""
    return xp.astype(x, xp.int64) & _MASK if is_torch(x) else xp.astype(x, xp.uint32, copy=False)


def _split(function, key, xp):
    """The high and low word of each key, ``(*batch, 1)``; and where it is negative, if that cannot be read and refused.

    A key that can be read is taken apart in NumPy: it has 64 bits there whatever the other library allows.
    """
    came, key = key, as_array(key)
    name = dtype_name(key)
    if is_jax(key) and name.startswith(("key", "uint32")):
        key = _jax_words(function, key)
        key = key if namespace(key) is xp else to_numpy(key)
        return (key[..., :1], key[..., 1:]), None
    if isinstance(came, int) and not 0 <= came < 2**64:
        raise ValueError(f"{function}: key is an integer from 0 to 2**64 - 1, not {came}.")
    if not name.startswith(("int", "uint")):
        what = type(came).__name__ if name == "object" else name
        raise TypeError(f"{function}: key is an integer, one per row, or a JAX key, not {what}.")
    if readable(key) or namespace(key) is not xp:
        key = as_array(to_numpy(key))
    key, xp = key[..., None], namespace(key)
    negative = key < 0
    if readable(key) and negative.any():
        raise ValueError(f"{function}: key is an integer from 0 to 2**64 - 1, not {key.min()}.")
    key = xp.astype(key, xp.int64) if is_torch(key) else key  # its unsigned integers have no shift
    high = key >> 32 if dtype_name(key).endswith("64") else xp.zeros_like(key)
    return (_word(high, xp), _word(key, xp)), None if readable(key) else negative


def _jax_words(function, key):
    """The words of JAX's own keys. In JAX, uint32 is the dtype of raw keys, so it is never one integer per row."""
    typed = dtype_name(key).startswith("key")
    data = sys.modules["jax"].random.key_data(key) if typed else key
    if data.shape[-1:] == (2,):
        return data
    if typed:
        raise ValueError(f"{function}: a JAX key has two words (impl='threefry2x32'), this one {data.shape[-1]}.")
    raise ValueError(
        f"{function}: uint32 in JAX is a raw key, of two words on its last axis; key is {shape(key)}. Keys for each "
        "row are signed integers, or those of jax.random.split."
    )
