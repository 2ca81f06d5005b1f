"""A teacher's logits for a target: how far the student's distribution is from the teacher's, one number per row."""

import math

from lastlayer._array import as_array, stop_gradient, take
from lastlayer._check import one_of, shape
from lastlayer._row import prepare, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, excess_of_exp
from lastlayer.loss.cross_entropy import cross_entropy
from lastlayer.transform.softmax import per_row, shares, surprise, tempered

_KINDS = ("forward", "reverse", "jensen_shannon")


@dispatched
def distill(
    logits: Float[Array, "*batch classes"],
    teacher: Float[Array, "*batch classes"],
    *,
    kind: str = "forward",
    temperature: float | Float[Array, "*batch 1"] = 1.0,
    rescale: bool = True,
    target: Int[Array, "*batch"] | None = None,
    hard: float = 0.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """How far ``p = softmax(logits / T)`` of a student is from ``q = softmax(teacher / T)``, one number per row.

        "forward"         KL(q || p) = sum_k q_k (log q_k - log p_k)          covers all the teacher does
        "reverse"         KL(p || q) = sum_k p_k (log p_k - log q_k)          seeks one thing the teacher does
        "jensen_shannon"  (KL(q || m) + KL(p || m)) / 2,  m = (p + q) / 2      symmetric, at most log 2 (Lin 1991)

    ``rescale`` multiplies by ``T^2``, so that the gradient keeps its size when the temperature changes (Hinton et al.
    2015, sec. 2). With ``target`` and ``hard`` h the loss is ``(1 - h) distill + h cross_entropy(logits, target)``.
    Each class enters with a term that is never negative, ``q (exp(d) - 1 - d)`` with ``d = log p - log q``, so two
    distributions that nearly agree keep their digits, where ``sum q (log q - log p)`` cancels, often below 0.
    ``0 * inf = 0``; a class masked for the student alone costs ``inf`` forward, one masked for the teacher alone
    ``inf`` in reverse; one masked for both is absent. An empty row of either is nan with gradient 0. A row that is not
    ``valid`` gives 0 with gradient exactly 0. The teacher's own gradient is kept: detach it where it is not to learn.
    For a teacher of whom only k classes were kept, `top_k_cross_entropy`.

    >>> distill(np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 2.0], [1e-9, 0.0]]))
    array([4.62117157e-01, 1.25000000e-19])
    """
    one_of("distill", "kind", kind, _KINDS)
    if not 0 <= hard <= 1 or (hard > 0) != (target is not None):
        raise ValueError(
            f"distill: hard is the share of the target's own loss, above 0 and at most 1 with a target and 0 without; "
            f"hard is {hard!r} {'without' if target is None else 'with'} one."
        )
    x, xp = prepare(logits, -1)
    y, _ = prepare(as_array(teacher, like=x), -1)
    if tuple(x.shape) != tuple(y.shape):
        raise ValueError(
            f"distill: student and teacher have the same classes, row by row. logits are {shape(x)}, teacher is "
            f"{shape(y)}."
        )
    y = xp.astype(y, x.dtype)
    empty = xp.all(x == -xp.inf, axis=-1) | xp.all(y == -xp.inf, axis=-1)
    keep = None if valid is None else aligned("distill", "valid", valid, "row of logits", x[..., 0], xp.bool)
    known = ~empty if keep is None else keep & ~empty
    x, y = (xp.where(known[..., None], z, xp.zeros_like(z)) for z in (x, y))
    student = tempered("distill", x, temperature, math.e, -1, xp)
    master = tempered("distill", y, temperature, math.e, -1, xp)
    heat = temperature if isinstance(temperature, int | float) else per_row("distill", temperature, x, -1, xp)
    near = _near(x, y, master, heat, xp)
    loss = _divergence(kind, student, master, xp.where(near == near, near, _apart(student, master)))
    if rescale:
        loss = loss * (heat * heat if isinstance(heat, int | float) else (heat * heat)[..., 0])
    if target is not None:
        soft = (1 - hard) * loss if hard < 1 else xp.zeros_like(loss)
        loss = hard * cross_entropy(x, target, valid=keep) + soft
    loss = xp.where(empty, xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


def _divergence(kind, student, master, apart):
    """The sum over the classes of the terms of `_excess`, from one distribution to the other, or to their middle."""
    xp = student.xp
    p, q, logp, logq = shares(student), shares(master), -surprise(student), -surprise(master)
    if kind == "forward":
        return total(_excess(q, p, logq, logp, apart, xp), xp)
    if kind == "reverse":
        return total(_excess(p, q, logp, logq, -apart, xp), xp)
    both = (logp != -xp.inf) & (logq != -xp.inf)
    zero = xp.zeros_like(p)
    d = xp.where(both, apart, xp.where(logp == -xp.inf, zero - xp.inf, zero + xp.inf))
    m, logm = (p + q) * 0.5, xp.where(logp > logq, logp, logq)  # for where it is -inf alone
    there = _excess(q, m, logq, logm, _to_middle(d, xp), xp, 3.0)
    return 0.5 * total(there + _excess(p, m, logp, logm, _to_middle(-d, xp), xp, 3.0), xp)


def _to_middle(d, xp):
    """``log((1 + exp(d)) / 2)``, from one of two distributions to their middle."""
    above, zero = d > 0, xp.zeros_like(d)
    low = xp.where(above, -d, d)
    close = low > -0.7  # further off, XLA's float64 log1p would lose 58 units
    middle = xp.log1p(xp.expm1(xp.where(close, low, zero)) * 0.5)
    return xp.where(above, d, zero) + xp.where(close, middle, xp.log((1 + xp.exp(low)) * 0.5))


def _apart(student, master):
    """``log p - log q``, with the slopes of the two and a value in which only what all classes share is rounded.

    To the first order what they share does not change a divergence, as p and q both sum to 1.
    """
    xp = student.xp
    logp, logq = -surprise(student), -surprise(master)
    both = (logp != -xp.inf) & (logq != -xp.inf)
    d = xp.where(both, logp, xp.zeros_like(logp)) - xp.where(both, logq, xp.zeros_like(logq))
    (ahead, first), (behind, second) = (_below(row, both) for row in (student, master))
    shared = xp.log1p(master.rest) - xp.log1p(student.rest)
    apart, third = subtract(ahead, behind, xp)
    apart, fourth = subtract(apart, stop_gradient(-shared)[..., None], xp)
    return d + stop_gradient((apart + (first - second + third + fourth)) - d)


def _below(row, some):
    """What each of some logits lies under the largest, and what rounding took from it; 0 for the others."""
    xp = row.xp
    largest = xp.where(row.max == -xp.inf, xp.zeros_like(row.max), row.max)[..., None]
    difference, error = subtract(xp.where(some, stop_gradient(row.x), largest), largest, xp)
    return difference, error if row.low is None else error + row.low


def _near(x, y, master, heat, xp):
    """``log p - log q`` of rows that are everywhere within 1 of each other, from the difference of their logits.

        d = u - log E_q[exp(u)],   u = (x - y) / T

    The difference of two logarithms has lost what two close logits still have. nan in all other rows.
    """
    finite = xp.isfinite(x) & xp.isfinite(y)
    both = xp.where(finite, x, xp.zeros_like(x)) - xp.where(finite, y, xp.zeros_like(y))
    u = (both - take(stop_gradient(both), master.top, xp)[..., None]) / heat
    absent = (x == -xp.inf) & (y == -xp.inf)
    near = xp.all((finite & (xp.abs(stop_gradient(u)) <= 1)) | absent, axis=-1)[..., None]
    u = xp.where(near & finite, u, xp.zeros_like(u))
    q = xp.where(near & finite, shares(master), xp.zeros_like(u))
    return xp.where(near, u - xp.log1p(total(q * xp.expm1(u), xp))[..., None], xp.nan)


def _excess(q, p, logq, logp, apart, xp, most=20.0):
    """``q (exp(d) - 1 - d)`` for ``d = log p - log q``, whose sum is KL(q || p), since p and q both sum to 1.

    Up to ``most`` it is computed so, where an error that all d share cancels in the sum; beyond, ``q exp(d)`` is p.
    """
    zero = xp.zeros_like(logq)
    both = (logq != -xp.inf) & (logp != -xp.inf)
    d = xp.where(both, apart, zero)
    far, close = d > most, xp.abs(d) <= 1
    half = xp.where(close, d, zero) * 0.5
    bend = excess_of_exp(half, xp)  # and exp(2h) - 1 - 2h = 2 bend + (h + bend)^2
    near = xp.where(close, 2 * bend + (half + bend) * (half + bend), xp.expm1(xp.where(far, zero, d)) - d)
    term = xp.where(far, p - q - q * d, q * near)
    cost = xp.where(both | (logq == -xp.inf), zero, -logp)  # inf where p lacks what q has
    return xp.where(both, term, xp.where(logq == -xp.inf, p, q * cost))
