"""`loss.cross_entropy.cross_entropy` of class indices, from the (max, rest) of each row; the ladder is in `max_rest`.

The slope, ``softmax - onehot`` times what comes back, reads the logits once and writes itself: nothing else of their
size is made. The times are printed by ``bench/softmax.py``.
"""

import numpy as np

from lastlayer.kernels.cpu import only_read
from lastlayer.kernels.cpu.logsumexp import values
from lastlayer.kernels.cpu.max_rest import as_rows, computing, over_rows
from lastlayer.kernels.cpu.softmax import weighed


def _indices(target):
    return only_read(target, np.int64).reshape(-1)


def run(logits, target, kept=None):
    """The same losses as the formula; a distribution, or a target that is refused, is left to it."""
    target = np.asarray(target)
    if target.dtype.kind not in "iu" or target.shape != logits.shape[:-1] or not logits.shape[-1]:
        return NotImplemented
    target, outside = _indices(target), []
    x, batch = as_rows(logits)
    out = np.empty(len(x), computing(x.dtype))

    def work(rows, m, rest, into, a, b):
        outside.append(values(rows, m, rest, target[a:b], into))

    over_rows(work, x, out, kept)
    return NotImplemented if any(outside) else out.reshape(batch)


def backward(gradient, logits, target, kept=None):
    """``softmax - onehot``, weighed by what comes back to each row."""
    return weighed(logits, gradient, 0.0, target=_indices(target), kept=kept)
