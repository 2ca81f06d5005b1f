"""`calibrate._affine_structure.diagonal_sums` as three loops over each row, which stay in the cache.

    1  formula, NumPy: a dozen passes over tables in float64
    2  these loops: the logits are read once, one exp per entry; 6 times as fast at 300 x 1,000

The sums over rows are taken in the order of the rows.
"""

import numpy as np

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential import exp

ANY_ORDER = {"reassoc", "contract", "nsz"}  # sums over a row in several lanes; nan and inf stay what they are
SIGNATURE = "f8({0}[:, ::1], f8, f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], f8[:, ::1])"


@compiled(SIGNATURE.format("f4"), SIGNATURE.format("f8"), fastmath=ANY_ORDER)
def _sums(z, scale, shift, weight, slope, bias, expected, curvature):
    rows, classes = z.shape
    x, p = np.empty(classes), np.empty(classes)
    normalisers = 0.0
    for i in range(rows):
        largest = -np.inf
        for j in range(classes):
            v = np.float64(z[i, j]) * scale - shift[i]
            masked = v == -np.inf
            v = 0.0 if masked else v
            u = v * slope[j] + bias[j]
            x[j] = v
            p[j] = -np.inf if masked else u
            largest = p[j] if p[j] > largest else largest
        total = 0.0
        for j in range(classes):
            p[j] = exp(p[j] - largest)
            total += p[j]
        w, over = weight[i], 1.0 / total
        for j in range(classes):
            share = p[j] * over
            wp = w * share
            wpx = wp * x[j]
            rest = 1.0 - share
            expected[0, j] += wpx
            expected[1, j] += wp
            curvature[0, j] += wpx * rest * x[j]
            curvature[1, j] += wpx * rest
            curvature[2, j] += wp * rest
        normalisers += w * (largest + np.log(total))
    return normalisers


def run(logits, scale, shift, weight, slope, bias) -> tuple:
    """The same sums as the formula."""
    expected, curvature = np.zeros((2, logits.shape[1])), np.zeros((3, logits.shape[1]))
    logits = np.array(logits, order="C", copy=None if logits.flags.writeable else True)
    shift, weight, slope, bias = (np.array(v, np.float64, order="C") for v in (shift, weight, slope, bias))
    normalisers = _sums(logits, float(scale), shift, weight, slope, bias, expected, curvature)
    return normalisers, expected.ravel(), curvature
