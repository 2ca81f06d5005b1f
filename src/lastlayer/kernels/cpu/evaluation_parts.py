"""What both kernels of `measure.rows.evaluation_sums` are made of."""

import math

import numpy as np

from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.logarithm import log1p
from lastlayer.state import GRID_CELLS, GRID_REACH

OCTAVE = 4  # temperatures to a factor of two
PER_UNIT = (GRID_CELLS - 2) / (2 * GRID_REACH)
FAR = 1e5  # log-odds beyond which the grid tells nothing apart
ROUNDING = 1e-6  # as in the formula
COLUMNS = 5
NLL, BRIER, CONFIDENCE, LOG_ODDS, GAIN = range(COLUMNS)


@compiled(inline="always")
def cell(p, count, step):
    """The bin ``(low, high]`` of a probability, of ``count`` bins of one width: the nearest edge is one of its ends.

    Edges are multiples of the first, to the bit, as `numpy.linspace` makes them; to look one up takes 1 ns.
    """
    nearest = np.int32(p * count + 0.5)
    return max(np.int32(nearest - np.int32(1) + np.int32(p > nearest * step)), np.int32(0))


@compiled("void(f8[::1], f8[::1], i4[::1])", inner=True)
def find_cells(p, edges, cells):
    """The bin of each probability."""
    count, step = len(edges) - 1.0, edges[1]
    for i in range(len(p)):
        cells[i] = cell(p[i], count, step)


@compiled("void(f8[::1], f8, f8, f8)", inner=True)
def add(sums, w, p, hit):
    """Add one entry to the sums of its bin, as in `state.Bins`."""
    gap = w * (hit - p)
    sums[0] += w
    sums[1] += w * p
    sums[2] += w * hit
    sums[3] += gap * gap


@compiled("void(f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1])", inner=True)
def add_rows(p, hit, weight, edges, sums):
    """Add one entry of each row to the bins of ``sums``."""
    cells = np.empty(len(p), np.int32)
    find_cells(p, edges, cells)
    for i in range(len(p)):
        if weight[i] > 0.0:
            add(sums[np.uint32(cells[i])], weight[i], p[i], hit[i])


@compiled("f8(f8, f8)", inner=True, error_model="numpy")
def class_odds(below, others):
    """Log-odds of a class that is ``below`` the top one, ``others`` being all terms but its own and the top one's."""
    return below - log1p(others, 1.0)  # off by 1e-16 of `others`, where a cell of the grid is .005


@compiled("i4(f8)", inner=True, error_model="numpy")
def grid_cell(v):
    """The cell of `state.Grid` of log-odds."""
    a = min(abs(v), FAR)
    asinh = log1p(a + math.sqrt(a * a + 1.0) - 1.0, 0.0)  # to 1e-16: a division for the digits of a small one less
    scaled = ((asinh if v > 0.0 else -asinh) + GRID_REACH) * PER_UNIT
    return np.int32(min(max(scaled + 1.0, 0.0), GRID_CELLS - 1.0))


@compiled("f8(f8[::1], f8[::1])", inner=True, fastmath={"reassoc"})
def _weighted(weight, values):
    """The sum of ``weight values``, in lanes; rows of weight 0 may hold anything."""
    total = 0.0
    for i in range(len(weight)):
        total += weight[i] * values[i] if weight[i] > 0.0 else 0.0
    return total


@compiled(
    "void(f8[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[:, :, ::1], f8[::1])",
    error_model="numpy",
)
def _read_curve(totals, hit, own, weight, beta, edges, curve, curve_nll):
    n = len(hit)
    confidence, loss = np.empty(n), np.empty(n)
    for b in range(len(beta)):
        total = totals[b]
        for i in range(n):
            inverse = 1.0 / (1.0 + total[i])
            confidence[i] = inverse
            loss[i] = log1p(total[i], inverse) - own[i] * beta[b]
        add_rows(confidence, hit, weight, edges, curve[b])
        curve_nll[b] += _weighted(weight, loss)


class Sums:
    """The fields of `measure.rows.EvaluationSums` while they are added up, tile after tile."""

    def __init__(self, logits, temperatures, curve_bins, class_bins, ranked):
        self.rows, classes = logits.shape
        self.beta = 1.0 / temperatures[::-1]  # ascending: an octave is the squares of the one before
        self._curve_edges = np.linspace(0.0, 1.0, curve_bins + 1)
        self.class_edges = np.linspace(0.0, 1.0, class_bins + 1)
        self._whole, self._columns = (
            np.empty((2, self.rows), np.int64),
            np.empty((COLUMNS, self.rows)),
        )
        self.classwise, self.cross, self.peak = (
            np.zeros((classes, class_bins, 4)),
            np.zeros(classes),
            np.zeros(classes),
        )
        self.grids = np.zeros((classes if ranked else 0, 2, GRID_CELLS))
        self._curve, self._curve_nll = (
            np.zeros((len(self.beta), curve_bins, 4)),
            np.zeros(len(self.beta)),
        )
        self.softmaxed = 0

    def tiles(self, target, weight, size):
        """Slices of ``size`` rows, with their target and weight."""
        for start in range(0, self.rows, size):
            rows = slice(start, min(start + size, self.rows))
            yield (
                rows,
                np.array(target[rows], np.int64),
                np.array(weight[rows], np.float64),
            )

    def add_curve(self, totals, hit, below, weight):
        """``totals`` are of all but the top class, at each temperature; ``below`` is the target, from the top on."""
        own = np.where(hit, 0.0, below)
        edges = self._curve_edges
        _read_curve(
            totals,
            hit.astype(np.float64),
            own,
            weight,
            self.beta,
            edges,
            self._curve,
            self._curve_nll,
        )

    def put(self, rows, top, rank, columns, undefined):
        """Keep the columns of a tile; rows that are ``undefined`` predict nothing."""
        columns[:, undefined], top[undefined], rank[undefined] = (
            np.nan,
            -1,
            len(self.classwise),
        )
        self._whole[0, rows], self._whole[1, rows], self._columns[:, rows] = top, rank, columns

    def result(self):
        curve, curve_nll = self._curve[::-1].copy(), self._curve_nll[::-1].copy()
        tables = self.classwise, self.cross, self.peak, self.grids, curve, curve_nll
        return *self._whole, *self._columns, *tables, np.array(self.softmaxed)


def limits(x):
    """Of rows with nan or infinities: their limits, which predict nothing (they are 0), and which have +inf."""
    undefined = np.isnan(x).any(1) | (x == -np.inf).all(1)
    plus = (x == np.inf).any(1) & ~undefined
    limit = np.where(plus[:, None], np.where(x == np.inf, 0.0, -np.inf), x)
    return np.where(undefined[:, None], 0.0, limit), undefined, plus
