"""`loss.binary.binary_cross_entropy`: one pass over logits and target, and one for the slope.

    tail = log1p(exp(-|z|)),   loss = w y (max(-z, 0) + tail) + (1 - y) (max(z, 0) + tail)

    1  formula, NumPy: some twenty passes
    2  this loop, with an exponential and a logarithm that are compiled to vector instructions

An entry's number depends on itself alone: every multiply-add is written out, and nothing is reordered. The times are
printed by ``bench/rows.py``.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from lastlayer._array import to_numpy
from lastlayer.kernels.cpu import compiled
from lastlayer.kernels.cpu.exponential32 import DOWN, fma, log1p, wide
from lastlayer.kernels.cpu.max_rest import computing, given, of_both, origin, over_rows, result, term

PATTERN = 4096  # entries of one inner loop, beside as many weights
TWO = np.float32(2.0)
A1, A2, A3, A4, A5, A6, A7 = (np.float32(1 / (2 * k + 1)) for k in range(1, 8))  # atanh(s) = s + A1 s^3 + A2 s^5 + ...


@compiled("f4(f4)", error_model="numpy")
def _log1p_single(e):
    """``log(1 + e)`` for e from 0 to 1, as 2 atanh(s) with s up to 1/3, of which 7 terms are enough."""
    s = e / (TWO + e)
    z = s * s
    series = fma(fma(fma(fma(fma(fma(A7, z, A6), z, A5), z, A4), z, A3), z, A2), z, A1)
    double = s + s
    return fma(double, series * z, double)


def _log1p(e) -> Any:
    """In compiled code: ``log(1 + e)`` for e from 0 to 1, in the precision of e."""


@overload(_log1p)
def _log1p_of_type(e):
    chosen = _log1p_single if e == types.float32 else log1p
    return lambda e: chosen(e)


@compiled(*of_both(lambda f: types.int32(*[given(f, 1)] * 3, f[::1])), error_model="numpy")
def _losses(logits, target, weight, out):
    """Writes the losses; gives how many targets are not in 0 to 1."""
    wide()
    outside, zero, one = np.int32(0), out.dtype.type(0), out.dtype.type(1)
    for start in range(0, len(out), len(weight)):
        losses = out[start : start + len(weight)]
        x, y = logits[start : start + len(weight)], target[start : start + len(weight)]
        for i in range(len(losses)):
            z = x[i]
            outside = np.int32(outside + np.int32((y[i] < zero) | (y[i] > one)))
            tail = _log1p(term(-abs(z), origin(zero)) * out.dtype.type(DOWN))
            missed = tail - z if z < zero else tail  # what a positive costs
            false = tail + z if z > zero else tail
            positive, negative = y[i] * weight[i], one - y[i]
            missed = zero if (positive == zero) & (missed == np.inf) else missed
            false = zero if (negative == zero) & (false == np.inf) else false
            losses[i] = positive * missed + negative * false
    return outside


@compiled(*of_both(lambda f: types.void(*[given(f, 1)] * 4, f[::1])), error_model="numpy")
def _slopes(logits, target, weight, gradient, out):
    wide()
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for start in range(0, len(out), len(weight)):
        slopes, g = (out[start : start + len(weight)], gradient[start : start + len(weight)])
        x, y = logits[start : start + len(weight)], target[start : start + len(weight)]
        for i in range(len(slopes)):
            z = x[i]
            e = term(-abs(z), origin(zero)) * out.dtype.type(DOWN)
            large, small = one / (one + e), e / (one + e)
            missed = large if z < zero else small
            false = small if z < zero else large
            slopes[i] = ((one - y[i]) * false - y[i] * weight[i] * missed) * g[i]


class _Entries(NamedTuple):
    """Logits and what belongs to them as tables of one row for each row of labels; the weights of some whole rows."""

    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    valid: np.ndarray | None

    def each(self, loop, out, *more):
        """What ``loop`` writes goes to ``out``, 0 where an entry does not count; whether it returned anything else."""
        returned = []

        def work(z, m, rest, into, a, b):
            y, *others = (np.require(part[a:b], into.dtype, ("C", "A")) for part in (self.target, *more))
            if self.valid is not None:
                z, y = (np.where(self.valid[a:b], part, into.dtype.type(0)) for part in (z, y))
            flat = [part.reshape(-1) for part in (z, y, *others, into)]
            returned.append(loop(*flat[:2], self.weight, *flat[2:]))
            if self.valid is not None:
                into[~self.valid[a:b]] = 0

        over_rows(work, self.logits, out)
        return any(returned)


def _entries(logits, target, pos_weight, valid) -> Any:
    """The arguments in line; None where they are not what the loops are made for, or not right."""
    weight = np.asarray(1.0 if pos_weight is None else to_numpy(pos_weight))
    arrays = [to_numpy(array) for array in (logits, target) + (() if valid is None else (valid,))]
    labels = logits.shape[-1]
    fits = all(array.shape == logits.shape for array in arrays) and weight.shape in ((), (1,), (labels,))
    if not fits or not logits.size or any(array.dtype.kind not in "biuf" for array in (*arrays, weight)):
        return None
    width = labels if weight.size > 1 or logits.ndim > 1 else 1
    pattern = np.tile(weight.astype(computing(logits.dtype)).reshape(-1), max(1, PATTERN // weight.size))
    z, y, *keep = (array.reshape(-1, width) for array in arrays)
    return _Entries(z, y, pattern, keep[0].astype(bool) if keep else None)


def run(logits, target, pos_weight=None, valid=None, kept=None):
    """The same losses as the formula, which also says what is wrong where something is."""
    entries = _entries(logits, target, pos_weight, valid)
    if entries is None:
        return NotImplemented
    losses = np.empty(entries.logits.shape, computing(logits.dtype))
    return NotImplemented if entries.each(_losses, losses) else losses.reshape(logits.shape)


def backward(gradient, logits, target, pos_weight=None, valid=None, kept=None):
    """The slope, times what comes back to each entry."""
    entries = _entries(logits, target, pos_weight, valid)
    slopes = result(logits, entries.logits.shape)
    entries.each(_slopes, slopes, np.broadcast_to(gradient, logits.shape).reshape(slopes.shape))
    return slopes.reshape(logits.shape)
