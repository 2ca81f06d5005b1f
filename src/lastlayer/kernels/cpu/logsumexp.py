"""`transform.softmax.logsumexp` from the (max, rest) of each row; the ladder is in `max_rest`."""

import numpy as np
from numba import types

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import log1p
from lastlayer.kernels.cpu.max_rest import ROWS, as_rows, over_rows, parts, together
from lastlayer.kernels.cpu.softmax import weighed


@compiled(types.void(ROWS, types.float32[::1]))
def _values(x, out):
    size = together(x.shape[1])
    m, rest = np.empty(size, np.float32), np.empty(size)
    for start in range(0, len(x), size):
        values = out[start : start + size]
        count = len(values)
        parts(x[start : start + count], m[:count], rest[:count])
        for i in range(len(values)):
            values[i] = m[i] + log1p(rest[i])


def run(logits, axis=-1):
    """The same numbers as the formula."""
    if logits.shape[axis] == 0:
        return NotImplemented
    x, batch = as_rows(logits, axis)
    out = np.empty(len(x), np.float32)
    over_rows(lambda rows, a, b: _values(rows, out[a:b]), x)
    return out.reshape(batch)


def backward(gradient, logits, axis=-1):
    """``softmax``, weighed by what comes back to each row."""
    return weighed(logits, gradient, 0.0, axis)
