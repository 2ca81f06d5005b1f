"""`transform.softmax.logsumexp` from the (max, rest) of each row; the ladder is in `max_rest`."""

import numpy as np

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import log1p
from lastlayer.kernels.cpu.max_rest import as_rows, largest, over_rows, parts, result, together
from lastlayer.kernels.cpu.softmax import NO_TARGET, weighed


@compiled()
def values(x, m, rest, target, out):
    """The logsumexp of each row; less the logit of its target, where there is one. How many targets name no class."""
    size, outside = together(x.shape[1]), 0
    offset = np.empty(size)
    following = largest(x, 0)
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        following = parts(x, start, stop, m, rest, following)
        offset[: stop - start] = m[start:stop]
        for i in range(start, stop if len(target) else start):
            k = target[i]
            names = (k >= 0) & (k < x.shape[1])
            outside += not names
            chosen = x[i, k if names else 0]
            offset[i - start] = 0.0 if chosen == m[i] else np.float64(m[i]) - chosen
            if m[i] == -np.inf:
                offset[i - start] = np.nan
        others, into = rest[start:stop], out[start:stop]
        for i in range(len(into)):
            into[i] = offset[i] + log1p(others[i])
    return outside


def run(logits, axis=-1, kept=None):
    """The same numbers as the formula."""
    if logits.shape[axis] == 0:
        return NotImplemented
    x, batch = as_rows(logits, axis)
    out = result(x, len(x))
    over_rows(lambda rows, m, rest, into, a, b: values(rows, m, rest, NO_TARGET, into), x, out, kept)
    return out.reshape(batch)


def backward(gradient, logits, axis=-1, kept=None):
    """``softmax``, weighed by what comes back to each row."""
    return weighed(logits, gradient, 0.0, axis, kept=kept)
