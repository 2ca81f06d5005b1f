"""What may stand in the matrix of an affine map: one number, a diagonal, or anything.

    logits' = A x + b

Parameters are one flat float64 vector, the biases among them. A structure gives sums over a
`_affine_features.Block` with
``p = softmax(logits')``: the weighted logsumexp; its gradient, the expectation ``sum w p x``; and the ``curvature``
that is asked for: the whole ``"hessian"``, or ``"blocks"`` of it, from which `solver` guesses its inverse, or None.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from lastlayer.kernels import dispatched

CLASSES_WITH_BLOCKS = 150  # 27 MB of them
NEGLECTED = 0.01  # of the largest p (1 - p) in a block: the 9 % of the rows above it serve 100 classes as all do


class Observed(NamedTuple):
    """The sums of ``w x`` at the targets, and of their absolute values: the scale of a gradient."""

    sum: np.ndarray
    size: np.ndarray


class Structure(Protocol):
    steady: bool  # the blocks at the start serve to the end: they cost more than a pass

    def observed(self, block) -> Observed: ...

    def sums(self, block, parameters, curvature) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...

    def solver(self, blocks, ridge) -> Callable[[np.ndarray], np.ndarray]: ...


class Diagonal:
    """``slope * x + bias``, parameters (slopes, biases)."""

    steady = False

    def observed(self, block):
        if block.target.ndim == 1:
            at, classes = block.target_features(), block.logits.shape[1]
            count = np.bincount(block.target, block.weight, classes)
            return Observed(
                *(np.append(np.bincount(block.target, block.weight * v, classes), count) for v in (at, np.abs(at)))
            )
        x, _ = block.features
        q = block.weighted_target()
        return Observed(*(np.append((q * v).sum(0), q.sum(0)) for v in (x, np.abs(x))))

    def sums(self, block, parameters, curvature):
        if curvature == "blocks":
            return diagonal_sums(block.logits, block.scale, block.shift, block.weight, *parameters.reshape(2, -1))
        x, masked = block.features
        slope, bias = parameters.reshape(2, -1)
        normaliser, p = softmax(x * slope + bias, masked)
        wp = p * block.weight[:, None]
        px, wpx = p * x, wp * x
        expected = np.append(wpx.sum(0), wp.sum(0))
        slopes, mixed, biases = -(wpx.T @ px), -(wpx.T @ p), -(wp.T @ p)
        for part, values in ((slopes, wpx * x), (mixed, wpx), (biases, wp)):
            part[np.diag_indices_from(part)] += values.sum(0)
        return (block.weight * normaliser).sum(), expected, np.block([[slopes, mixed], [mixed.T, biases]])

    def solver(self, blocks, ridge):
        """Slope and bias of a class together: they are correlated strongly, classes hardly."""
        a, b, c = blocks
        slopes, biases = ridge.reshape(2, -1)
        a, c = a + slopes, c + biases
        determinant = a * c - b * b

        def solve(vector):
            v, u = vector.reshape(2, -1)
            return np.append((c * v - b * u) / determinant, (a * u - b * v) / determinant)

        return solve


class Shared:
    """``slope * x + bias`` with one slope for all classes, parameters (slope, biases)."""

    steady = False

    def observed(self, block):
        return Observed(*map(_contract, Diagonal().observed(block)))

    def sums(self, block, parameters, curvature):
        slopes = np.full(len(parameters) - 1, parameters[0])
        normaliser, expected, found = Diagonal().sums(block, np.append(slopes, parameters[1:]), curvature)
        if curvature == "hessian":
            found = _contract(_contract(found).T)
        return normaliser, _contract(expected), found

    def solver(self, blocks, ridge):
        a, b, c = blocks
        c = c + ridge[1:]
        own = a.sum() + ridge[0] - (b * b / c).sum()

        def solve(vector):
            slope = (vector[0] - (b / c * vector[1:]).sum()) / own
            return np.append(slope, (vector[1:] - b * slope) / c)

        return solve


def _contract(values):
    """Sums over slopes and biases as those over one slope and biases."""
    classes = len(values) // 2
    return np.concatenate([values[:classes].sum(0, keepdims=True), values[classes:]])


class Full:
    """``W x + b``, parameters the rows of (W, b)."""

    steady = True

    def observed(self, block):
        x, _ = block.features
        q = block.weighted_target()
        return Observed(*((q.T @ _with_one(v)).ravel() for v in (x, np.abs(x))))

    def sums(self, block, parameters, curvature):
        x, masked = block.features
        x = _with_one(x)
        normaliser, p = softmax(x @ parameters.reshape(-1, x.shape[1]).T, masked)
        wp = p * block.weight[:, None]
        found = np.zeros(0)
        if curvature is not None:
            found = self._hessian(p, wp, x) if curvature == "hessian" else self._blocks(p, wp, x)
        return (block.weight * normaliser).sum(), (wp.T @ x).ravel(), found

    def _hessian(self, p, wp, x):
        n, columns = x.shape
        hessian = -((wp[:, :, None] * x[:, None]).reshape(n, -1).T @ (p[:, :, None] * x[:, None]).reshape(n, -1))
        for k, weight in enumerate(wp.T):
            own = slice(k * columns, (k + 1) * columns)
            hessian[own, own] += (x * weight[:, None]).T @ x
        return hessian

    def _blocks(self, p, wp, x):
        """The block of each class, from the rows that matter to it; its diagonal alone where there are too many."""
        q = wp * (1 - p)
        if q.shape[1] > CLASSES_WITH_BLOCKS:
            return q.T @ (x * x)
        blocks = np.empty((q.shape[1], x.shape[1], x.shape[1]))
        for k, weight in enumerate(q.T):
            rows = np.flatnonzero(weight > NEGLECTED * weight.max())
            part = x[rows]
            blocks[k] = (part * weight[rows, None]).T @ part
        return blocks

    def solver(self, blocks, ridge):
        ridge = ridge.reshape(blocks.shape[:2])
        if blocks.ndim == 2:
            return lambda vector: vector / (blocks + ridge).ravel()
        inverse = np.linalg.inv(blocks + ridge[:, :, None] * np.eye(blocks.shape[1]))
        return lambda vector: (inverse @ vector.reshape(*ridge.shape, 1)).ravel()


def _with_one(x):
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


@dispatched
def diagonal_sums(logits, scale, shift, weight, slope, bias):
    """Sums over rows of ``u = slope * x + bias``, ``x = logits * scale - shift``, with ``p = softmax(u)``.

    sum w logsumexp(u)    (2K,) sums of w p x and w p    (3, K) sums of w p (1 - p) times x^2, x and 1
    """
    x = logits.astype(np.float64) * scale - shift[:, None]
    masked = x == -np.inf
    x[masked] = 0.0
    normaliser, p = softmax(x * slope + bias, masked)
    wp = p * weight[:, None]
    wpx, q = wp * x, wp * (1 - p)
    expected = np.append(wpx.sum(0), wp.sum(0))
    return (weight * normaliser).sum(), expected, np.stack([(q * x * x).sum(0), (q * x).sum(0), q.sum(0)])


def softmax(u, masked):
    """logsumexp and softmax of rows, which are overwritten."""
    if masked is not None:
        u[masked] = -np.inf
    largest = u.max(1, keepdims=True)
    u -= largest
    np.exp(u, out=u)
    sums = u.sum(1, keepdims=True)
    u /= sums
    return (largest + np.log(sums))[:, 0], u
