"""Calibration error by a kernel whose width is the error itself: no bins, and none of their jumps."""

import numpy as np

from lastlayer._check import one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import OVER, count_of, entries_of, with_hits
from lastlayer.measure.curves import macro
from lastlayer.measure.metric import Z95, Metric
from lastlayer.state import WeightedSum

FINEST = 2**20  # cells of [0, 1]
CELLS_PER_WIDTH = 200  # of the grid to a standard deviation of the kernel


def smooth_calibration_error(
    logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, over="top", weight=None
) -> Metric:
    """Smooth calibration error (Błasiok and Nakkiran 2023): the s at which a kernel of width s finds s.

        error(s) = integral over t of |mean of (hit - p) K_s(t, p)|,     smooth_calibration_error = s: error(s) = s

    K is the normal kernel reflected at 0 and 1. It falls as s grows, so there is one such s, and it moves by no more
    than twice the distance the probabilities are moved. ``over`` as in `calibration_error`.

    The residuals are put on a grid of 200 cells or more to s, linearly, and smoothed by a cosine transform; the
    result's ``bound`` is what this may change. Below an s of 0.0002 (a million cells) the bound is that s.

    The interval speaks of sampling with the signs as found, as that of `calibration_error` does.

    >>> z, y = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 1, 1])
    >>> round(float(smooth_calibration_error(z, y)), 4)
    0.3808
    """
    one_of("smooth_calibration_error", "over", over, OVER)
    rows = with_hits("smooth_calibration_error", logits, target, weight)
    entries = entries_of(rows, over)
    n, _ = count_of(rows)
    if not entries.known:
        return Metric(np.nan, 0.0, 1.0, n)
    columns = entries.counted().columns() if over == "classwise" else [entries.counted()]
    return macro([_smooth(column.probs, column.residuals, column.weight, n) for column in columns])


def _smooth(p, residuals, weight, n):
    """``p`` and ``residuals`` are (rows, entries of a row)."""
    from scipy.optimize import root_scalar

    share = np.broadcast_to((weight / weight.sum() / p.shape[1])[:, None], p.shape)
    size = float((share * np.abs(residuals)).sum())
    if size == 0:
        return Metric(0.0, 0.0, 1.0, n)
    cells = 2**12
    while True:
        spectrum = _Spectrum.of(p, share * residuals, cells)
        narrowest = CELLS_PER_WIDTH / cells
        found = spectrum.error(narrowest)
        if found >= narrowest or cells == FINEST:
            break
        cells *= 4
    if found < narrowest:
        value, bound = found, narrowest
    else:
        value = root_scalar(lambda s: spectrum.error(s) - s, bracket=(narrowest, 1.0), xtol=1e-12).root
        # |K''| has the integral 4 phi(1) / s^2; linear interpolation, once over p and once over t, costs an eighth each
        bound = size * 0.968 / (4 * (cells * value) ** 2)
    slope, influence = spectrum.slopes(value, p)
    mean = WeightedSum.of((residuals * influence).mean(-1), weight).value()
    reach = Z95 * float(mean.error) / (1 - slope)
    reach = reach if np.isfinite(reach) else 1.0
    return Metric(value, max(value - reach - bound, 0.0), min(value + reach + bound, 1.0), n, bound)


class _Spectrum:
    """Residuals on the nodes of a grid, as cosines: reflection at both ends is what cosines have.

    r_s(t) = a_0 + 2 sum_k a_k exp(-(k pi s)^2 / 2) cos(k pi t),     a_k = sum_i r_i cos(k pi p_i)
    """

    def __init__(self, mass):
        self.cells = len(mass) - 1
        self.coefficients = self._cosines(mass)
        self.rate = (np.pi * np.arange(len(mass))) ** 2

    @classmethod
    def of(cls, p, mass, cells):
        where, mass = p.reshape(-1) * cells, mass.reshape(-1)
        node = np.minimum(where.astype(np.int64), cells - 1)
        right = where - node
        left = np.bincount(node, mass * (1 - right), cells + 1)
        return cls(left + np.bincount(node + 1, mass * right, cells + 1))

    def _cosines(self, mass):
        halved = mass / 2
        halved[[0, -1]] = mass[[0, -1]]
        return _transformed(halved)

    def _curve(self, coefficients, s):
        return _transformed(coefficients * np.exp(-self.rate * (s * s / 2)))

    def error(self, s):
        """The integral of |r_s|, exact for the line from node to node."""
        curve = self._curve(self.coefficients, s)
        a, b = np.abs(curve[:-1]), np.abs(curve[1:])
        crossed = curve[:-1] * curve[1:] < 0
        with np.errstate(all="ignore"):
            area = np.where(crossed, (a * a + b * b) / (a + b), a + b)
        return float(area.sum() / (2 * self.cells))

    def slopes(self, s, p):
        """The derivative of `error` in s, and in the mass at each p."""
        sign = np.sign(self._curve(self.coefficients, s)) / self.cells
        sign[[0, -1]] /= 2
        decay = np.exp(-self.rate * (s * s / 2))
        slope = float(sign @ _transformed(-self.coefficients * self.rate * s * decay))
        influence = self._curve(self._cosines(sign), s)
        return slope, np.interp(p, np.linspace(0, 1, self.cells + 1), influence)


def _transformed(x):
    """``x_0 + (-1)^j x_m + 2 sum_k x_k cos(pi j k / m)`` for each j: the cosine transform between nodes."""
    from scipy.fft import dct

    return np.asarray(dct(x, type=1))
