"""Normalisers that join: two numbers, or the parts of one row that was cut in pieces."""

from typing import NamedTuple

import numpy as np

from lastlayer import _row
from lastlayer._array import dtype_name, namespace, restore, together
from lastlayer._check import shape
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched
from lastlayer.transform.softmax import normaliser


class LogSumExpParts(NamedTuple):
    """The logsumexp of a row, or of a piece of it, as two numbers from which nothing was rounded away.

        logsumexp = max + log1p(rest),   rest = sum over all entries but one largest of exp(z_i - max)

    Where the largest entry is the target of a loss, that loss is ``log1p(rest)`` and its gradient there
    ``-rest / (1 + rest)``: the tail that ``max + log1p(rest)`` no longer holds.
    """

    max: Array  # (*batch,), -inf for an empty piece; a constant of the differentiation
    rest: Array  # (*batch,), 0 for an empty piece

    def value(self):
        """``logsumexp``, one number per row."""
        with np.errstate(all="ignore"):
            return self.max + namespace(self.rest).log1p(self.rest)


@dispatched
def logsumexp_parts(logits: Float[Array, "*batch classes"], *, axis=-1) -> LogSumExpParts:
    """The two numbers of `LogSumExpParts` for each row (or piece of a row), which `merge_logsumexp` joins.

    A further entry equal to the maximum counts exactly 1, also at ``+inf``. Masked classes are absent. float16 and
    bfloat16 give float32.

    >>> logsumexp_parts(np.array([40.0, 0.0]))
    LogSumExpParts(max=np.float64(40.0), rest=np.float64(4.248354255291589e-18))
    """
    x, xp = _row.prepare(logits, axis)
    row = _row.split(x, xp)
    return LogSumExpParts(row.max + row.removed, row.rest_from_max())


def merge_logsumexp(*parts: LogSumExpParts) -> LogSumExpParts:
    """The parts of a whole row from those of its pieces: cache tiles, vocabulary shards, machines.

        (m1, s1 + (1 + s2) exp(m2 - m1))   for m1 >= m2

    Any way of cutting gives the whole to a few units in the last place; the maximum is exact. The pieces are joined
    neighbour by neighbour, in the order they come in, so equal orders give equal bits, and each is rounded only
    log2(pieces) times: from the left, 32,000 tiles of 8 would cost 98 units. At least one piece; all of one shape and
    library. The gradient of `value` is right to the last digits of a probability; that of a loss made from it is
    ``exp(z - max) / (1 + rest)`` minus the target, with ``-rest / (1 + rest)`` where the target is the largest.

    >>> tiles = [logsumexp_parts(tile) for tile in ([1000.0, 0.0], [1000.0], [-np.inf])]
    >>> float(merge_logsumexp(*tiles).value())
    1000.6931471805599
    """
    if not parts:
        raise ValueError("merge_logsumexp: one piece at least; there is none.")
    for piece in parts:
        if tuple(piece.max.shape) != tuple(parts[0].max.shape):
            raise ValueError(
                f"merge_logsumexp: the pieces are of the same rows. The first has {shape(parts[0].max)}, another "
                f"{shape(piece.max)}."
            )
    with np.errstate(all="ignore"):
        joined = list(parts)
        while len(joined) > 1:
            odd = joined[-1:] if len(joined) % 2 else []
            joined = [_joined(a, b) for a, b in zip(joined[::2], joined[1::2], strict=False)] + odd
    return joined[0]


def _joined(a, b):
    return LogSumExpParts(*_row.merge(a.max, a.rest, b.max, b.rest, namespace(a.rest)))


@dispatched
def logaddexp(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logarithm of the sum of two exponentials, elementwise.

        logaddexp(a, b) = logsumexp([a, b]) = a + softplus(b - a)

    Two equal infinities give that infinity; the slopes are ``sigmoid(a - b)`` and ``sigmoid(b - a)``, 1/2 each where
    the two are equal, and 0 where both are ``-inf``. The shapes broadcast; a plain number takes the dtype and library
    of the other.

    >>> logaddexp(np.array([0.0, -np.inf, 40.0]), np.array([0.0, -3.0, 40.0])).round(3)
    array([ 0.693, -3.   , 40.693])
    """
    (x, y), xp = together(a, b)
    halves = {dtype_name(z) for z in (a, b) if hasattr(z, "dtype")}
    sums = normaliser(_row.split(xp.stack(xp.broadcast_arrays(x, y), axis=-1), xp))
    return restore(sums, next((z for z in (a, b) if hasattr(z, "dtype")), sums) if len(halves) == 1 else sums)
