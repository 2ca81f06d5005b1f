"""One number per row from a seed: a row's randomised set depends on its own number, never on its neighbours."""

import hashlib

import numpy as np

from lastlayer._array import arange_like, as_array, is_torch
from lastlayer._random import words

# What the numbers are for: held-out rows, new rows and the choice of rows for clusters must not share draws.
CALIBRATION, NEW_ROWS, CLUSTERS = range(3)


def uniform(seed, purpose, rows, start, like, xp, draw=True):
    """A number from (0, 1) for each entry of ``like`` ``(rows,)``; 0 where nothing is drawn.

    ``rows`` are 64-bit numbers of the rows; None counts them from ``start``. The bits are Threefry's
    (`lastlayer._random`) with the key (purpose, seed) and the row's number as counter.
    """
    if not draw:
        return xp.zeros_like(like)
    word = xp.int64 if is_torch(like) else xp.uint32
    if rows is None:
        low = xp.astype(arange_like(like, xp), word) + xp.astype(as_array(np.array(start), like=like), word)
        high = xp.zeros_like(low)
    else:
        low, high = (
            xp.astype(as_array(half.astype(np.int64 if is_torch(like) else np.uint32), like=like), word)
            for half in (rows & np.uint64(0xFFFFFFFF), rows >> np.uint64(32))
        )
    key = tuple(xp.zeros_like(low) + xp.astype(as_array(np.array(k), like=like), word) for k in (purpose, seed))
    first, second = (xp.astype(w, like.dtype) for w in words(key, low, high, xp))
    return (first + (second + 0.5) * 2.0**-32) * 2.0**-32


def row_numbers(ids) -> np.ndarray:
    """Ids as 64-bit numbers: whole numbers as they are, anything else by a hash of its text."""
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        return ids.astype(np.uint64)
    texts = (value if isinstance(value, bytes) else str(value).encode() for value in ids.tolist())
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def check_seed(function, seed):
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"{function}: seed is an integer from 0 to 2**32 - 1, not {seed!r}.")
