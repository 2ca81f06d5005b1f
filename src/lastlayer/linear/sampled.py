"""Softmax of a positive among sampled negatives, from features and the sampled rows of a weight."""

import importlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lastlayer._array import as_array, dtype_name, to_numpy, together
from lastlayer._check import one_of, shape
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.linear.call import Call, one_each
from lastlayer.linear.gradients import Gradients, LinearGradients
from lastlayer.linear.head import Head
from lastlayer.linear.plan import planned
from lastlayer.linear.products import PARTS
from lastlayer.linear.softmax_loss import Smoothed, sweep
from lastlayer.linear.streamed import Streamed, gradients_of, streamed
from lastlayer.loss.sampled import sampled_softmax


@streamed
def linear_sampled_softmax(
    function,
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    target: Int[Array, "*batch"],
    negatives: Int[Array, " k"] | Int[Array, "*batch k"],
    *,
    bias: Float[Array, " classes"] | None = None,
    log_q_positive: Float[Array, "*batch"] | None = None,
    log_q_negatives: Float[Array, " k"] | Float[Array, "*batch k"] | None = None,
    accidental: str = "drop",
    valid: Bool[Array, "*batch"] | None = None,
    memory: int | str = "64MiB",
):
    """Softmax cross-entropy of a target among k sampled classes; one number per row.

        linear_sampled_softmax = sampled_softmax(z[target], z[negatives]),   z = features @ weight.T + bias

    Only the rows of ``weight`` that were sampled are read, a tile at a time. ``negatives`` are classes, ``(k,)`` where
    the rows share their draws, or ``(*batch, k)``; one that is the target of its row is left out, or counts with
    ``accidental="keep"``. ``log_q_positive``, ``log_q_negatives``, ``valid`` and edges as in `sampled_softmax`. The
    rest as in `linear_cross_entropy`; half precision is computed in float32. `linear_sampled_softmax_grad` gives
    NumPy's gradients.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> linear_sampled_softmax(features, weight, np.array([2, 0]), np.array([0, 1])).round(4)
    array([0.5514, 0.1269])
    """
    one_of(function, "accidental", accidental, ("drop", "keep"))
    features = as_array(features)
    given = {"negatives": negatives, "log_q_positive": log_q_positive, "log_q_negatives": log_q_negatives}
    draws = {name: None if array is None else as_array(array, like=features) for name, array in given.items()}
    layer = {"bias": bias, "valid": valid, "memory": memory, "drop": accidental == "drop"}
    return OfSampled(Sampled.of(function, features, weight, target, **layer, **draws), sampled_softmax)


linear_sampled_softmax_grad = gradients_of(linear_sampled_softmax, LinearGradients)

TOGETHER = 16  # rows whose own negatives are gathered at a time
GATHERED = PARTS  # times that the sampled rows of the weight are there, a part of a product fetching its own


@dataclass(frozen=True)
class Sampled(Call):
    """A layer of which each row sees its target and k negatives."""

    negatives: Any
    log_q_positive: Any
    log_q_negatives: Any
    drop: bool

    @classmethod
    def of(cls, function, features, weight, target, **more):
        call = super().of(function, features, weight, target, **more)
        negatives = call.negatives
        if not dtype_name(negatives).startswith(("int", "uint")):
            raise TypeError(f"{function}: negatives are indices of classes, integers, not {dtype_name(negatives)}.")
        if tuple(negatives.shape[:-1]) not in ((), call.batch) or 0 in negatives.shape[-1:] or not negatives.ndim:
            raise ValueError(
                f"{function}: negatives are (k,), or (*batch, k) where each row has its own, k being at least 1; they "
                f"are {shape(negatives)} for {shape(call.features[..., 0])} rows."
            )
        if call.log_q_negatives is None and call.log_q_positive is not None:
            raise ValueError(f"{function}: log_q_positive goes with log_q_negatives; it came alone.")
        for name, like in (("log_q_positive", call.target), ("log_q_negatives", negatives)):
            if getattr(call, name) is not None:
                one_each(function, name, getattr(call, name), "draw", like)
        return call

    @property
    def shared(self):
        """Whether all the rows have the same negatives."""
        return self.negatives.ndim == 1

    @cached_property
    def dtype(self):
        """The dtype that the logits are made in."""
        name = super().dtype
        return "float32" if name == "bfloat16" else name

    def draws(self, array, dtype) -> Any:
        """Numbers per negative, ``(1, k)`` or of the rows that count."""
        rows = to_numpy(array).reshape(-1, array.shape[-1])
        return np.asarray(rows if self.shared or self.kept is None else rows[self.kept], dtype)

    def columns(self):
        """The class of each column, ``(1, 1 + k)`` or a row for each that counts; -1 stands for the target."""
        negatives = self.draws(self.negatives, np.int64)
        outside = (negatives < 0) | (negatives >= self.weight.shape[0])
        if outside.any():
            raise ValueError(
                f"{self.function}: negative {negatives[outside][0]} is not one of the {self.weight.shape[0]} classes "
                f"of weight {shape(self.weight)}."
            )
        return np.concatenate([np.full((len(negatives), 1), -1), negatives], axis=1)

    def corrections(self):
        """What is taken off the target's logit and off each column, for how often they are drawn."""
        first, others = np.zeros(self.rows), np.zeros((1, self.negatives.shape[-1]))
        if self.log_q_negatives is not None:
            others = self._logarithms("log_q_negatives", self.draws(self.log_q_negatives, np.float64))
            if self.log_q_positive is None:
                others = others + math.log(others.shape[1])
            else:
                given = self.of_rows(to_numpy(self.log_q_positive)).astype(np.float64)
                first = self._logarithms("log_q_positive", given)
        return first, np.concatenate([np.zeros((len(others), 1)), others], axis=1)

    def _logarithms(self, name, log_q):
        wrong = ~((log_q <= 0) & (log_q > -np.inf))
        if wrong.any():
            raise ValueError(
                f"{self.function}: {name} holds logarithms of probabilities above 0, at most 1; one is "
                f"{log_q[wrong][0]:g}."
            )
        return log_q

    def rows_of(self, classes):
        """Rows of the weight in the dtype of the logits; zeros where there is no class."""
        rows = self.swept(self.weight[np.maximum(classes, 0)])
        rows[classes < 0] = 0
        return rows

    def drawn(self, gradients):
        """The target and the negatives as the classes of a head."""
        width, columns = self.weight.shape[1], self.columns()
        beside = GATHERED * width * np.dtype(self.dtype).itemsize * (1 if self.shared else TOGETHER)
        shape_of = self.rows, width, columns.shape[1], self.dtype
        plan = planned(self.function, *shape_of, self.memory, gradients, beside=beside)
        bias = None if self.bias is None else to_numpy(self.swept(self.bias))
        settings = {"softcap": None, "temperature": 1.0, "products": self.products(), "plan": plan}
        draws = {"call": self, "target": self.targets(), "columns": columns}
        first, log_q = self.corrections()
        return SampledHead(self.counted(), None, bias, **settings, **draws, log_q_first=first, log_q=log_q)


@dataclass(frozen=True)
class SampledHead(Head):
    """Logits of the target, in column 0, and of its negatives; rows of the weight are fetched as they are used."""

    call: Sampled
    target: np.ndarray
    columns: np.ndarray
    log_q_first: np.ndarray
    log_q: np.ndarray

    @property
    def lanes(self):
        """One: tiles of several columns add to the same classes."""
        return 1

    def logits(self, rows, block, tile):
        """The logits of some rows and columns, corrected for how often each is drawn."""
        bits, classes = self.products.bits(tile), draws_of(self.columns, rows, block)
        target = self.target[rows][:, None]
        if self.call.shared:
            self.products.logits(self.features[rows], self.call.rows_of(classes[0]), None, tile)
        else:
            self._dots(rows, classes, bits)
        if self.bias is not None:
            bits += self.bias[classes]
        bits -= draws_of(self.log_q, rows, block).astype(bits.dtype)
        if self.call.drop:
            bits[classes == target] = -np.inf
        if block.start == 0:
            first = np.empty_like(bits, shape=(len(bits), 1))
            self._dots(rows, target, first)
            shift = -self.log_q_first[rows] if self.bias is None else self.bias[target[:, 0]] - self.log_q_first[rows]
            bits[:, 0] = first[:, 0] + shift

    def _dots(self, rows, classes, out):
        """Products of each row with the classes that are its own."""
        features = self.products.bits(self.features[rows])
        for a in range(0, len(classes), TOGETHER):
            part = slice(a, a + TOGETHER)
            gathered = to_numpy(self.call.rows_of(classes[part]))
            np.einsum("rcd,rd->rc", gathered, features[part], out=out[part])


class SampledGradients(Gradients):
    """Sums over the tiles of sampled classes; those of the weight go to the rows that were fetched."""

    def __init__(self, head, wanted):
        call, plan, self.head = head.call, head.plan, head
        self.features = head.products.room(plan.rows, plan.width, products=2) if wanted.features else None
        self.weight = np.zeros(tuple(call.weight.shape), call.dtype) if wanted.weight else None
        self.bias = np.zeros(call.weight.shape[0]) if wanted.bias else None

    def add(self, rows, block, tile):
        """What the slopes of a tile add."""
        head, bits = self.head, self.head.products.bits(tile)
        classes = draws_of(head.columns, rows, block)
        target = bits[:, :1].copy() if block.start == 0 else bits[:, :0]
        if block.start == 0:  # the target has a row of its own
            bits[:, 0] = 0
        if head.call.shared:
            self._add_shared(rows, block, tile, classes[0])
        else:
            if self.features is not None and block.start == 0:
                self.features[rows] = 0
            negative = slice(int(block.start == 0), None)
            self._add_own(rows, classes[:, negative], bits[:, negative])
        self._add_own(rows, head.target[rows][:, None][:, : target.shape[1]], target)
        if self.bias is not None:
            np.add.at(self.bias, np.broadcast_to(classes, bits.shape), bits)
            np.add.at(self.bias, head.target[rows], target.sum(axis=1))

    def _add_shared(self, rows, block, tile, classes):
        head = self.head
        if self.features is not None:
            head.products.rows(tile, head.call.rows_of(classes), self.features[rows], block.start == 0)
        if self.weight is not None:
            made = head.products.room(len(classes), head.plan.width)
            head.products.columns(tile, head.features[rows], made, True)
            there = classes >= 0
            made = head.products.bits(made)[there]
            self._add_to_weight(*_sums(classes[there][:, None], np.ones((len(made), 1), made.dtype)), made)

    def _add_own(self, rows, classes, slopes):
        features = self.head.products.bits(self.head.features[rows])
        out = None if self.features is None else self.head.products.bits(self.features[rows])
        for a in range(0, len(classes) if classes.size else 0, TOGETHER):
            part = slice(a, a + TOGETHER)
            which, sums = _sums(classes[part], slopes[part])
            if out is not None:
                out[part] += sums @ to_numpy(self.head.call.rows_of(which))
            if self.weight is not None:
                self._add_to_weight(which, sums, features[part])

    def _add_to_weight(self, which, sums, rows):
        self.weight[which] += sums.T @ rows


def _sums(classes, slopes):
    """The classes that come up, and a matrix of the slopes of each row, ``(rows, classes that come up)``."""
    sparse: Any = importlib.import_module("scipy.sparse")
    which, place = np.unique(classes, return_inverse=True)
    starts = np.arange(0, classes.size + 1, classes.shape[1])
    return which, sparse.csr_array((slopes.ravel(), place.ravel(), starts), shape=(len(classes), len(which)))


def draws_of(table, rows, block):
    """The part of a table of columns, of which all rows may share the only row."""
    return table[:, block] if len(table) == 1 else table[rows, block]


@dataclass(frozen=True)
class OfSampled(Streamed):
    """The cross-entropy of the target among itself and the negatives of its row."""

    layer: Sampled

    def sweep(self, cotangent, wanted):
        head = self.layer.drawn(any(wanted))
        first = np.zeros(head.plan.rows, np.int64)
        return sweep(head, Smoothed(), first, np.ones(len(first)), cotangent, SampledGradients(head, wanted))

    def formula(self, features, weight, bias):
        """The losses with all the sampled rows of the weight there."""
        call = self.layer
        (x, w, *b), xp = together(*(a for a in (features, weight, bias) if a is not None))
        keep = call.valid
        target = call.target if keep is None else xp.where(keep, call.target, xp.zeros_like(call.target))
        if keep is not None:
            x = xp.where(keep[..., None], x, xp.zeros_like(x))

        def rows_of(classes, table=w):
            return xp.reshape(xp.take(table, xp.reshape(classes, (-1,)), axis=0), (*classes.shape, table.shape[-1]))

        def biased(scores, classes):
            return (
                scores + xp.reshape(xp.take(b[0], xp.reshape(classes, (-1,)), axis=0), classes.shape) if b else scores
            )

        negatives = call.negatives
        rows = rows_of(negatives)
        others = xp.matmul(x, rows.T) if call.shared else xp.sum(x[..., None, :] * rows, axis=-1)
        return self.composed(
            biased(xp.sum(x * rows_of(target), axis=-1), target),
            biased(others, negatives),
            log_q_positive=call.log_q_positive,
            log_q_negatives=call.log_q_negatives,
            accidental=negatives == target[..., None] if call.drop else None,
            valid=keep,
        )
