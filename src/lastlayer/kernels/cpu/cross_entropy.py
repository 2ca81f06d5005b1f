"""`loss.cross_entropy.cross_entropy` of class indices, from the (max, rest) of each row; the ladder is in `max_rest`.

The slope, ``softmax - onehot`` times what comes back, reads the logits once and writes itself: nothing else of their
size is made. The times are printed by ``bench/softmax.py``.
"""

import numpy as np

from lastlayer.kernels.cpu.logsumexp import values
from lastlayer.kernels.cpu.max_rest import as_rows, computing, over_rows
from lastlayer.kernels.cpu.softmax import weighed


def _indices(target):
    return np.array(target, np.int64, order="C").reshape(-1)


def _named(logits, target):
    """Whether ``target`` names a class of every row; where it does not, the formula says what is wrong."""
    target = np.asarray(target)
    whole = target.dtype.kind in "iu" and target.shape == logits.shape[:-1]
    return whole and (target.size == 0 or (target.min() >= 0 and target.max() < logits.shape[-1]))


def run(logits, target, kept=None):
    """The same losses as the formula; a distribution, or a target that is refused, is left to it."""
    if not _named(logits, target):
        return NotImplemented
    target = _indices(target)
    x, batch = as_rows(logits)
    out = np.empty(len(x), computing(x.dtype))
    over_rows(lambda rows, m, rest, into, a, b: values(rows, m, rest, target[a:b], into), x, out, kept)
    return out.reshape(batch)


def backward(gradient, logits, target, kept=None):
    """``softmax - onehot``, weighed by what comes back to each row."""
    return weighed(logits, gradient, 0.0, target=_indices(target), kept=kept)
