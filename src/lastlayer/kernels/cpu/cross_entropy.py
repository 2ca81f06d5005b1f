"""`loss.cross_entropy.cross_entropy` of class indices, from the (max, rest) of each row; the ladder is in `max_rest`.

The slope, ``softmax - onehot`` times what comes back, reads the logits once and writes itself: nothing else of their
size is made. The times are printed by ``bench/softmax.py``.
"""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import log1p
from lastlayer.kernels.cpu.max_rest import ROWS, as_rows, over_rows, parts, together
from lastlayer.kernels.cpu.softmax import weighed


@compiled(types.void(ROWS, types.int64[::1], types.float32[::1]))
def _values(x, target, out):
    size = together(x.shape[1])
    m, rest, below = np.empty(size, np.float32), np.empty(size), np.empty(size)
    for start in range(0, len(x), size):
        rows, values = x[start : start + size], out[start : start + size]
        count = len(values)
        parts(rows, m[:count], rest[:count])
        for i in range(count):
            chosen = rows[i, target[start + i]]
            below[i] = 0.0 if chosen == m[i] else np.float64(m[i]) - chosen
            if m[i] == -np.inf:
                below[i] = np.nan
        for i in range(len(values)):
            values[i] = below[i] + log1p(rest[i])


def _indices(target):
    return np.array(target, np.int64, order="C").reshape(-1)


def _named(logits, target):
    """Whether ``target`` names a class of every row; where it does not, the formula says what is wrong."""
    target = np.asarray(target)
    whole = target.dtype.kind in "iu" and target.shape == logits.shape[:-1]
    return whole and (target.size == 0 or (target.min() >= 0 and target.max() < logits.shape[-1]))


def run(logits, target):
    """The same losses as the formula; a distribution, or a target that is refused, is left to it."""
    if not _named(logits, target):
        return NotImplemented
    target = _indices(target)
    x, batch = as_rows(logits)
    out = np.empty(len(x), np.float32)
    over_rows(lambda rows, a, b: _values(rows, target[a:b], out[a:b]), x)
    return out.reshape(batch)


def backward(gradient, logits, target):
    """``softmax - onehot``, weighed by what comes back to each row."""
    return weighed(logits, gradient, 0.0, target=_indices(target))
