"""One pass over the rows of a `Problem` of many parameters: value, gradient and mean curvature, a tile at a time.

Logits stand in a tile of some rows and are written over by their slopes, so that of dense rows no table of
``rows x outputs`` is ever there; a block of features is read from memory once for the logits and for the gradient.
Parameters are a table ``(features + 1, outputs)`` in the dtype of the features, in a gauge of its own: its last row is
the intercept of centred features,

    logits = (x - centre) B + b'.

Sums are of float32 within a tile and of float64 between tiles, added in the order of the rows, so that the number of
threads changes no bit.
"""

from typing import Any, NamedTuple

import numpy as np

from lastlayer.kernels import dispatched
from lastlayer.parallel import over_ranges
from lastlayer.train._problem import Problem

FEW = 32  # outputs: products of a block with them are bound by memory, so the block should still be near
SPAN = 4096  # rows whose gradient is summed before float64 takes over
TILE = 2**20  # logits of one range: 4 MB
SPARSE_TILE = 2**22
COLUMNS = 512  # of a sparse matrix, of one range of the pool


@dispatched
def sparse_product(out, values, indices, starts, table):
    """Add ``matrix @ table`` to ``out``; the arrays are those of a matrix by rows, of which it may be a part."""
    from scipy.sparse import csr_array

    part = slice(starts[0], starts[-1])
    out += csr_array((values[part], indices[part], starts - starts[0]), shape=(len(out), len(table))) @ table


@dispatched
def class_slopes(tile, target, weight, shift, sums):
    """The loss of softmax of ``tile + shift``, whose slopes by each logit are written over the tile.

    To ``sums`` are added, for each class, the sum of the slopes and that of the curvatures ``w p (1 - p)``.
    """
    tile += shift
    rows, first = np.arange(len(tile)), tile.argmax(1)
    largest = tile[rows, first]
    distance = (largest - tile[rows, target]).astype(np.float64)
    np.exp(tile - largest[:, None], out=tile)
    tile[rows, first] = 0.0
    rest = tile.sum(1, dtype=np.float64)
    tile[rows, first] = 1.0
    tile /= (1 + rest)[:, None].astype(tile.dtype)
    sums[1] += (weight[:, None] * tile * (1 - tile)).sum(0, dtype=np.float64)
    tile[rows, target] = np.where(distance == 0, -rest / (1 + rest), np.exp(-distance) / (1 + rest) - 1)
    tile *= weight[:, None]
    sums[0] += tile.sum(0, dtype=np.float64)
    return float(weight @ (distance + np.log1p(rest)))


@dispatched
def label_slopes(tile, target, weight, shift, sums):
    """The same of a sigmoid of each logit; ``target`` is the share of 1 of each."""
    z = tile + shift
    e = np.exp(-np.abs(z))
    over, positive, rest = 1 / (1 + e), z > 0, 1 - target
    losses = np.log1p(e.astype(np.float64)) + np.where(positive, rest, -target) * z
    tile[...] = weight[:, None] * over * np.where(positive, rest - target * e, rest * e - target)
    sums[0] += tile.sum(0, dtype=np.float64)
    sums[1] += (weight[:, None] * e * over * over).sum(0, dtype=np.float64)
    return float((weight @ losses).sum())


@dispatched
def class_pass(tile, block, weight, offset, target, row_weight, shift, gradient, sums):
    """`class_slopes` of ``block @ weight.T + offset``, which is made in ``tile``; their gradient is added.

    ``offset`` may have no rows.
    """
    return _passed(class_slopes, tile, block, weight, offset, target, row_weight, shift, gradient, sums)


@dispatched
def label_pass(tile, block, weight, offset, target, row_weight, shift, gradient, sums):
    """The same by `label_slopes`."""
    return _passed(label_slopes, tile, block, weight, offset, target, row_weight, shift, gradient, sums)


def _passed(slopes, tile, block, weight, offset, target, row_weight, shift, gradient, sums):
    np.matmul(block, weight.T, out=tile)
    if len(offset):
        tile += offset
    loss = slopes(tile, target, row_weight, shift, sums)
    gradient += tile.T @ block
    return loss


class Sums(NamedTuple):
    """Of all the rows at some parameters, without the penalty."""

    loss: float
    gradient: np.ndarray  # (features + 1, outputs)
    bend: np.ndarray  # (outputs,): the mean of p (1 - p)


class Rows:
    """The rows of a problem, which `sums` goes over."""

    def __init__(self, problem: Problem, centre: np.ndarray):
        self.features: Any = problem.features
        self.centre = centre
        self.count, self.width = problem.features.shape
        self.outputs, self.intercept = problem.outputs, problem.intercept
        self.dtype = np.dtype(problem.features.dtype)
        self.total = float(problem.weight.sum())
        self._weight = np.ascontiguousarray(problem.weight, self.dtype)
        several = problem.family == "multinomial"
        self._slopes, self._pass = (class_slopes, class_pass) if several else (label_slopes, label_pass)
        self._target = problem.target
        if not several:
            self._target = np.ascontiguousarray(problem.target.reshape(self.count, self.outputs), self.dtype)
        self._offset = None if problem.offset is None else problem.offset.reshape(self.count, -1)
        self._none = np.empty((0, self.outputs), self.dtype)
        self._blocks = list(self._cut()) if hasattr(problem.features, "tocsc") else []

    def sums(self, table) -> Sums:
        """Loss, gradient and mean curvature at ``table``."""
        shift = table[-1] - self.centre.astype(self.dtype) @ table[:-1]
        loss, gradient, sums = (self._sparse if self._blocks else self._dense)(table, shift)
        gradient -= np.multiply.outer(*(v.astype(gradient.dtype) for v in (self.centre, sums[0])))
        last = sums[:1] if self.intercept else np.zeros((1, self.outputs))
        return Sums(loss, np.concatenate([gradient, last]).astype(self.dtype, copy=False), sums[1] / self.total)

    def _dense(self, table, shift):
        weight = np.ascontiguousarray(table[:-1].T)
        few = self.outputs <= FEW
        size = span = SPAN if few else max(min(TILE // self.outputs, SPAN // 2) // 8 * 8, 64)
        if few and not self.features.flags.c_contiguous:
            size = max(min(TILE // self.width, SPAN), 64)  # of a copy

        def work(a, b):
            gradient = np.zeros((self.outputs, self.width), self.dtype)
            loss, sums = 0.0, np.zeros((2, self.outputs))
            room = np.empty((min(size, b - a), self.outputs), self.dtype)
            for start in range(a, b, size):
                rows = slice(start, min(start + size, b))
                block, tile = self.features[rows], room[: rows.stop - start]
                block = np.ascontiguousarray(block) if few else block
                given = self._offset_of(rows), self._target[rows], self._weight[rows]
                loss += self._pass(tile, block, weight, *given, shift, gradient, sums)
            return loss, gradient, sums

        loss, gradient, sums = 0.0, np.zeros((self.outputs, self.width)), np.zeros((2, self.outputs))
        for part in over_ranges(work, self.count, span):
            loss += part[0]
            gradient += part[1]
            sums += part[2]
        return loss, gradient.T, sums

    def _sparse(self, table, shift):
        weight, loss = table[:-1], 0.0
        gradient, sums = np.zeros(weight.shape, self.dtype), np.zeros((2, self.outputs))
        for rows, by_row, by_column in self._blocks:
            tile = np.zeros((rows.stop - rows.start, self.outputs), self.dtype)
            for part in over_ranges(self._row_work(tile, rows, by_row, weight, shift), len(tile), 256):
                loss += part[0]
                sums += part[1]
            for _ in over_ranges(_column_work(gradient, by_column, tile), self.width, COLUMNS):
                pass
        return loss, gradient, sums

    def _row_work(self, tile, rows, matrix, weight, shift):
        values, indices, starts = matrix

        def work(a, b):
            sums = np.zeros((2, self.outputs))
            sparse_product(tile[a:b], values, indices, starts[a : b + 1], weight)
            return self._finished(tile[a:b], slice(rows.start + a, rows.start + b), shift, sums), sums

        return work

    def _finished(self, tile, rows, shift, sums):
        if self._offset is not None:
            tile += self._offset_of(rows)
        return self._slopes(tile, self._target[rows], self._weight[rows], shift, sums)

    def _offset_of(self, rows):
        return self._none if self._offset is None else self._offset[rows].astype(self.dtype)

    def _cut(self):
        """Blocks of rows of a sparse matrix, by rows and by columns."""
        size = max(SPARSE_TILE // self.outputs, 256)
        for start in range(0, self.count, size):
            rows = slice(start, min(start + size, self.count))
            part = self.features[rows]
            yield rows, _arrays(part), _arrays(part.tocsc())


def _column_work(gradient, matrix, tile):
    values, indices, starts = matrix
    return lambda a, b: sparse_product(gradient[a:b], values, indices, starts[a : b + 1], tile)


def _arrays(matrix):
    return matrix.data, matrix.indices.astype(np.int32, copy=False), matrix.indptr.astype(np.int32, copy=False)
