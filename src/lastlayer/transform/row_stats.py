"""What a row says of itself: any set of its statistics, from one read."""

import functools
import re
import sys
from typing import Any, NamedTuple

from lastlayer._array import arange_like, as_array, dtype_name, is_torch, stop_gradient, take
from lastlayer._check import one_of, shape
from lastlayer._row import class_index, prepare
from lastlayer._typing import Array, Float, Int
from lastlayer.kernels import choose, dispatched
from lastlayer.transform.confidence import entropy, top2_gap
from lastlayer.transform.softmax import log_softmax, logsumexp, softmax

NAMES = ("logp", "lse", "entropy", "argmax", "rank", "topk", "top2_gap", "max_prob")
OF_TARGET = ("logp", "rank")


class TopK(NamedTuple):
    """The largest logits of each row in falling order, the first of equals first, and their classes."""

    values: Array  # (*batch, k)
    index: Array  # (*batch, k)


def row_stats(
    logits: Float[Array, "*batch classes"],
    want: tuple[str, ...] = ("lse", "entropy", "argmax"),
    target: Int[Array, "*batch"] | None = None,
) -> dict[str, Any]:
    """Statistics of rows of logits, by name, from one read: those of `linear_stats`, of logits that are there.

    logp        log-probability of ``target``            argmax    class of the largest logit
    lse         logsumexp                                rank      how many classes come before ``target``
    entropy     of softmax, in nats                      topk:K    `TopK`, K logits and their classes
    max_prob    probability of the largest               top2_gap  largest minus second

    ``want`` is any set of these; every one is ``(*batch,)`` but ``topk:K``. All but argmax, rank and classes have
    gradients. Equal logits stand in the order of their classes. A row that holds a nan, or nothing but ``-inf``, has
    argmax -1, rank ``classes`` and nan for the rest (an empty one an lse of ``-inf``). float16 and bfloat16 are
    computed, and come out, in float32.

    >>> found = row_stats(np.array([[2.0, 0.0, 2.0], [0.5, -1.0, -0.5]]), ("logp", "rank", "topk:2"), np.array([0, 2]))
    >>> found["logp"].round(4), found["rank"]
    (array([-0.7586, -1.4644]), array([0, 1]))
    >>> found["topk:2"].index
    array([[0, 2],
           [0, 2]])
    """
    counts = counted("row_stats", want, NAMES, target)
    x = as_array(logits)
    one, xp = prepare(x[..., :1] if x.ndim else x, -1)  # of one class: it says what is wrong with the logits
    enough("row_stats", counts, x.shape[-1])
    places: Any = None if target is None else as_array(target, like=one)
    if places is not None:
        if not dtype_name(places).startswith(("int", "uint")):
            raise ValueError("row_stats: target is the index of a class, an integer: target.astype(int).")
        if tuple(places.shape) != tuple(one.shape[:-1]):
            rows = shape(one[..., 0])
            raise ValueError(f"row_stats: one target per row of logits, {rows}; target is {shape(places)}.")
        places, x = class_index("row_stats", "target", places, x, xp)
    learns = is_torch(x) and x.requires_grad and sys.modules["torch"].is_grad_enabled()
    if learns and choose("row_statistics", x) is not None:
        return by_name(want, _function().apply(x, tuple(want), places))
    return by_name(want, row_statistics(x, tuple(want), places))


@dispatched
def row_statistics(logits, want, target):
    """The arrays asked for, in order; a `TopK` is two of them."""
    x, xp = prepare(logits, -1)
    undefined, empty = xp.any(xp.isnan(x), axis=-1), xp.all(x == -xp.inf, axis=-1)
    bare, largest = undefined | empty, xp.argmax(stop_gradient(x), axis=-1)

    def rank():
        own = take(x, target, xp)[..., None]
        before = (x > own) | ((x == own) & (arange_like(x, xp) < target[..., None]))
        count = xp.sum(xp.astype(before, largest.dtype), axis=-1, dtype=largest.dtype)
        return xp.where(bare, xp.full_like(count, x.shape[-1]), count)

    def top(k):
        index = xp.argsort(-stop_gradient(x), axis=-1, stable=True)[..., :k]
        values = xp.take_along_axis(x, index, axis=-1)
        values = values * xp.where(undefined, xp.nan, xp.ones_like(values[..., 0]))[..., None]
        values = xp.where(values == -xp.inf, xp.full_like(values, -xp.inf), values)  # no slope for a masked class
        lost = bare[..., None]
        return xp.where(lost, xp.full_like(values, xp.nan), values), xp.where(lost, xp.full_like(index, -1), index)

    made = {
        "logp": lambda: take(log_softmax(x), target, xp),
        "lse": lambda: logsumexp(x),
        "entropy": lambda: entropy(x),
        "argmax": lambda: xp.where(bare, xp.full_like(largest, -1), largest),
        "rank": rank,
        "top2_gap": lambda: top2_gap(x),
        "max_prob": lambda: take(softmax(x), largest, xp),
    }
    found = []
    for name in want:
        word, _, k = name.partition(":")
        found += top(int(k)) if k else [made[word]()]
    return found


def counted(function, want, names, target) -> dict[str, int]:
    """How many of the first classes each statistic looks at, by its name, which is checked."""
    counts = {}
    for name in want:
        word, _, number = name.partition(":") if isinstance(name, str) else (name, "", "")
        one_of(function, "want", word, names)
        if (word == "topk") != bool(re.fullmatch("[1-9][0-9]*", number)):
            raise ValueError(f'{function}: the first k classes are "topk:8", k being at least 1; {name!r} came.')
        if word in OF_TARGET and target is None:
            raise ValueError(f"{function}: {word} is that of a target; target=... is missing.")
        counts[name] = int(number) if number else {"argmax": 1, "max_prob": 1, "top2_gap": 2}.get(word, 0)
    return counts


def enough(function, counts, classes):
    """Refuse to look for more first classes than there are."""
    for name, k in counts.items():
        if k > classes and name.startswith("topk"):
            raise ValueError(f"{function}: {name} asks for {k} of {classes} classes.")


def by_name(want, arrays) -> dict[str, Any]:
    """Arrays in the order of ``want`` by name; a `TopK` is two of them."""
    rest = iter(arrays)
    return {n: TopK(next(rest), next(rest)) if n.startswith("topk") else next(rest) for n in want}


@functools.cache
def _function():
    torch: Any = sys.modules["torch"]

    class RowStats(torch.autograd.Function):
        """Forward is the one read of the kernel; backward differentiates the formula, whose parts have kernels."""

        @staticmethod
        def forward(ctx, logits, want, target):
            ctx.save_for_backward(logits)
            ctx.want, ctx.target = want, target
            found = row_statistics(logits.detach(), want, target)
            ctx.mark_non_differentiable(*(array for array in found if not array.is_floating_point()))
            return tuple(found)

        @staticmethod
        def backward(ctx, *cotangents):
            (logits,) = ctx.saved_tensors
            again = torch.is_grad_enabled()  # somebody wants to differentiate once more
            with torch.enable_grad():
                x = logits if again else logits.detach().requires_grad_()
                found = row_statistics.__wrapped__(x, ctx.want, ctx.target)
                pairs = [(array, c) for array, c in zip(found, cotangents, strict=True) if array.is_floating_point()]
                values, back = zip(*pairs, strict=True)
                (slope,) = torch.autograd.grad(values, x, back, create_graph=again)
            return slope, None, None

    return RowStats
