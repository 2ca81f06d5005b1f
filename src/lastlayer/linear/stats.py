"""Statistics of a last layer's rows, any set of them from one sweep over the logits, which never exist."""

import functools
import math
import sys
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import floating, is_torch, namespace, to_numpy, together
from lastlayer._typing import Array, Float, Int
from lastlayer.linear.autograd import through_formula
from lastlayer.linear.call import Call, concrete
from lastlayer.linear.gradients import Wanted
from lastlayer.linear.row_sums import Asked, RowSums, back, row_sums
from lastlayer.loss.cross_entropy import cross_entropy
from lastlayer.loss.distillation import distill
from lastlayer.transform.confidence import entropy
from lastlayer.transform.row_stats import NAMES, by_name, counted, enough
from lastlayer.transform.softmax import logsumexp

INDICES = ("argmax", "rank")


def linear_stats(
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    want: tuple[str, ...] = ("lse", "entropy", "argmax"),
    target: Int[Array, "*batch"] | None = None,
    *,
    bias: Float[Array, " classes"] | None = None,
    teacher: tuple | None = None,
    memory: int | str = "64MiB",
) -> dict[str, Any]:
    """Statistics of the logits of a last layer, by name, from one sweep that never holds them all.

        logits = features @ weight.T + bias

    logp        log-probability of ``target``            argmax    class of the largest logit
    lse         logsumexp                                rank      how many classes come before ``target``
    entropy     of softmax, in nats                      topk:K    `TopK`, K logits and their classes
    max_prob    probability of the largest               top2_gap  largest minus second
    kl          KL(teacher, this), the teacher being ``(features, weight)`` or ``(features, weight, bias)``

    ``want`` is any set of these; every one is ``(*batch,)`` but ``topk:K``. NumPy arrays, and PyTorch tensors in the
    memory of the CPU; with tensors all but argmax, rank and classes have gradients, to features, weight and bias (the
    teacher is a constant), by a second sweep; a second derivative goes through the formula, logits and all. Equal
    logits stand in the order of their classes. A row that holds a nan, or nothing but ``-inf``, has argmax -1, rank
    ``classes`` and nan for the rest (an empty one an lse of ``-inf``).
    Rank costs a second sweep where a tile does not hold whole rows, as `plan` says; with a ``teacher`` each layer has
    half the memory. bfloat16 is multiplied as such, but not beside a teacher.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> found = linear_stats(features, weight, ("logp", "rank", "topk:2"), np.array([0, 2]))
    >>> found["logp"].round(4), found["rank"]
    (array([-1.5514, -1.8064]), array([1, 1]))
    >>> found["topk:2"].index
    array([[2, 0],
           [0, 2]])
    """
    function = "linear_stats"
    counts = counted(function, want, (*NAMES, "kl"), target)
    given = _given(function, features, weight, target, bias, memory, want)
    if ("kl" in counts) != (teacher is not None):
        raise ValueError(f'{function}: "kl" is the divergence from a teacher=(features, weight); both or neither.')
    other = None if teacher is None else _teacher(function, given, teacher, memory)
    classes = given.weight.shape[0]
    enough(function, counts, classes)
    if not concrete(given.features, given.weight, given.bias, given.target):
        raise TypeError(f"{function}: it takes NumPy arrays or PyTorch tensors in the memory of the CPU, untraced.")
    work = _Work(given, other, counts, min(max(counts.values(), default=0), classes))
    if not is_torch(given.features):
        return by_name(counts, work.values(work.sums()))
    return by_name(counts, _function().apply(given.features, given.weight, given.bias, work))


class _Work(NamedTuple):
    """One call: the layer, its teacher, what is asked for, and of how many first classes."""

    call: Call
    teacher: Call | None
    want: dict[str, int]  # how many of the first classes each looks at
    tops: int

    def heads(self, gradients):
        """The layer and its teacher, in tiles of the same rows and classes."""
        sweeps = 2 if "rank" in self.want and not gradients else 1
        head = self.call.head(gradients, sweeps, 1 if self.teacher is None else 2)
        if self.teacher is None:
            return head, None
        width = self.teacher.weight.shape[1]
        return head, replace(self.teacher.head(False, 1, 2), plan=replace(head.plan, width=width))

    def sums(self) -> RowSums:
        """What the statistics are made of."""
        head, teacher = self.heads(False)
        target = self.call.targets()
        return row_sums(head, Asked(target, self.tops, "rank" in self.want, teacher))

    def formula(self, sums, features, weight, bias):
        """Those that have slopes, with all the logits there; the first classes are those of ``sums``."""
        logits = floating(self.call.logits(features, weight, bias))
        xp, last = namespace(logits), len(self.call.target.shape)
        theirs: Any = self.teacher

        def first(k):
            index = np.clip(sums.tops.index[:, :k], 0, logits.shape[-1] - 1).reshape(*self.call.target.shape, k)
            return xp.take_along_axis(logits, xp.asarray(index), axis=last)

        def gap(name):
            top = first(min(2, logits.shape[-1]))
            return top[..., 0] - top[..., 1] if top.shape[-1] > 1 else top[..., 0] * 0 + math.inf

        made = {
            "logp": lambda name: -cross_entropy(logits, self.call.target),
            "lse": lambda name: logsumexp(logits),
            "entropy": lambda name: entropy(logits),
            "topk": lambda name: first(self.want[name]),
            "top2_gap": gap,
            "max_prob": lambda name: xp.exp(first(1)[..., 0] - logsumexp(logits)),
            "kl": lambda name: distill(logits, floating(theirs.logits(theirs.features, theirs.weight, theirs.bias))),
        }
        return [made[kind](name) for name in self.want if (kind := name.partition(":")[0]) not in INDICES]

    def values(self, sums):
        """The arrays asked for, in order; a `TopK` is two of them."""
        batch = tuple(self.call.target.shape)
        real = np.float32 if self.call.dtype == "bfloat16" else np.dtype(self.call.dtype)
        found = []
        with np.errstate(all="ignore"):
            for name, k in self.want.items():
                for array in _VALUES[name.partition(":")[0]](sums, self.call.weight.shape[0], k):
                    found.append(
                        array.astype(real if array.dtype.kind == "f" else np.int64).reshape(*batch, *array.shape[1:])
                    )
        return found


def _bare(sums):
    """Rows that have no distribution: a nan among their logits, or nothing but -inf."""
    return np.isnan(sums.parts.largest) | (sums.parts.largest == -np.inf)


def _logp(sums, classes, k):
    at, largest = sums.parts.at, sums.parts.largest
    below = np.where(at == largest, 0.0, at - largest)
    yield np.where(_bare(sums), np.nan, below - np.log1p(sums.parts.rest))


def _lse(sums, classes, k):
    yield sums.parts.logsumexp()


def _entropy(sums, classes, k):
    parts = sums.parts
    yield np.where(_bare(sums), np.nan, np.log1p(parts.rest) + parts.moment / (1 + parts.rest))


def _argmax(sums, classes, k):
    yield np.where(_bare(sums), -1, sums.tops.index[:, 0])


def _rank(sums, classes, k):
    yield np.where(_bare(sums), classes, sums.rank)


def _topk(sums, classes, k):
    bare = _bare(sums)[:, None]
    yield np.where(bare, np.nan, sums.tops.values[:, :k])
    yield np.where(bare, -1, sums.tops.index[:, :k])


def _top2_gap(sums, classes, k):
    first = sums.tops.values[:, 0]
    second = sums.tops.values[:, 1] if classes > 1 else np.full_like(first, -np.inf)
    yield np.where(_bare(sums), np.nan, np.where(first == second, 0.0, first - second))


def _max_prob(sums, classes, k):
    yield np.where(_bare(sums), np.nan, 1 / (1 + sums.parts.rest))


def _kl(sums, classes, k):
    theirs = sums.teacher
    between = theirs.logsumexp() - sums.parts.logsumexp()
    yield np.where(_bare(sums), np.nan, sums.cross / (1 + theirs.rest) - between)


_VALUES = {
    "logp": _logp,
    "lse": _lse,
    "entropy": _entropy,
    "argmax": _argmax,
    "rank": _rank,
    "topk": _topk,
    "top2_gap": _top2_gap,
    "max_prob": _max_prob,
    "kl": _kl,
}


@functools.cache
def _function():
    torch: Any = sys.modules["torch"]

    class LinearStats(torch.autograd.Function):
        """Forward keeps the sums of each row; backward makes the logits once more, for their slopes."""

        @staticmethod
        def forward(ctx, features, weight, bias, work):
            ctx.save_for_backward(features, weight, bias)
            ctx.work, ctx.sums = work, work.sums()
            found = [torch.from_numpy(array) for array in work.values(ctx.sums)]
            ctx.mark_non_differentiable(*(t for t in found if not t.is_floating_point()))
            return tuple(found)

        @staticmethod
        def backward(ctx, *cotangents):
            tensors = ctx.saved_tensors  # complains where one was written to since
            if torch.is_grad_enabled():  # somebody wants to differentiate once more
                real = [c for c in cotangents if c.is_floating_point()]
                return *through_formula(ctx, lambda *t: ctx.work.formula(ctx.sums, *t), tensors, real), None
            work, named = ctx.work, by_name(ctx.work.want, cotangents)
            slopes = {}
            for name, each in named.items():
                kind = name.partition(":")[0]
                if kind not in INDICES:
                    array = to_numpy(each.values if kind == "topk" else each).astype(np.float64)
                    array = array.reshape(-1, array.shape[-1]) if kind == "topk" else array.reshape(-1)
                    slopes[kind] = array if kind not in slopes else _widest(slopes[kind], array)
            head, teacher = work.heads(True)
            made = back(head, teacher, ctx.sums, slopes, Wanted(*ctx.needs_input_grad[:3]))
            return *work.call.tensors(made), None

    return LinearStats


def _widest(a, b):
    """The slopes of two `TopK` of one row, together."""
    out = np.zeros((len(a), max(a.shape[1], b.shape[1])))
    out[:, : a.shape[1]] += a
    out[:, : b.shape[1]] += b
    return out


def _given(function, features, weight, target, bias, memory, want):
    """The call, checked; class 0 stands in where no target is asked for."""
    if target is None:
        target = np.zeros(tuple(features.shape[:-1]), np.int64)
    if "kl" in want and is_torch(features):  # a difference of two layers has no use for logits of 8 bits
        (features, weight, *rest), _ = together(*(x for x in (features, weight, bias) if x is not None))
        bias = rest[0] if rest else None
    return Call.of(function, features, weight, target, bias=bias, memory=memory)


def _teacher(function, given, teacher, memory):
    """The teacher as a call of its own, over the same rows and classes."""
    features, weight, *bias = teacher
    zero = np.zeros(tuple(features.shape[:-1]), np.int64)
    call = _given(function, features, weight, zero, bias[0] if bias else None, memory, ("kl",))
    if call.target.shape != given.target.shape or call.weight.shape[0] != given.weight.shape[0]:
        raise ValueError(
            f"{function}: the teacher speaks of the same rows and classes, {math.prod(given.target.shape)} and "
            f"{given.weight.shape[0]}; its are {math.prod(call.target.shape)} and {call.weight.shape[0]}."
        )
    return call
