"""Several models' logits as the log-probabilities of one: an ensemble."""

import numpy as np

from lastlayer._array import as_array, dtype_name, namespace, readable, restore, stop_gradient
from lastlayer._check import one_of, shape
from lastlayer._row import limit, multiply, prepare, split, subtract
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched
from lastlayer.transform.softmax import surprise


@dispatched
def pool(
    logits: list[Float[Array, "*batch classes"]] | tuple[Float[Array, "*batch classes"], ...],
    how="log",
    weights: Float[Array, " models"] | None = None,
) -> Float[Array, "*batch classes"]:
    """Normalised log-probabilities of several models' logits together, a list of arrays of one shape and library.

        "log"     log_softmax(sum_k w_k log_softmax(z_k))
        "linear"  log(sum_k w_k softmax(z_k))

    "log" is the geometric mean of the probabilities (Genest & Zidek 1986), a product of experts: a class masked in one
    model is masked. "linear" is their mean, the mixture of a deep ensemble (Lakshminarayanan et al. 2017): a class is
    masked where every model masks it. Both keep ``log p`` of a probability that rounds to 1. ``weights``, one per
    model, not negative, are divided by their sum; None weighs all alike. A model of weight 0 is not looked at. A row
    that is empty, or holds a nan, in any other model is nan, and so is one of which "log" masks every class.

    >>> pool([np.array([40.0, 0.0]), np.array([42.0, 0.0])], "linear")
    array([-2.41165324e-18, -4.05662192e+01])
    """
    one_of("pool", "how", how, ("log", "linear"))
    models, xp = _models(logits)
    shares = _shares(weights, models, xp)
    counted = [xp.where(high == 0, xp.zeros_like(x), x) for x, (high, _) in zip(models, shares, strict=True)]
    together = (_log if how == "log" else _linear)(counted, shares, xp)
    dtypes = {dtype_name(as_array(z)) for z in logits}
    return restore(together, logits[0] if len(dtypes) == 1 else together)


def _models(logits):
    """Each model's logits in one dtype to compute with, and their namespace."""
    if not isinstance(logits, list | tuple):
        raise TypeError(f"pool: logits is a list, one array per model, not {type(logits).__name__}.")
    if not logits:
        raise ValueError("pool: the list is empty; it takes the logits of one model at least.")
    if len({namespace(as_array(z)) for z in logits}) > 1:
        raise TypeError("pool: the models are arrays of one library; these are of several.")
    prepared = [prepare(z, -1) for z in logits]
    models, xp = [x for x, _ in prepared], prepared[0][1]
    for k, x in enumerate(models):
        if tuple(x.shape) != tuple(models[0].shape):
            raise ValueError(
                f"pool: the models have logits of one shape; model 0 is {shape(models[0])}, model {k} is {shape(x)}."
            )
    widest = xp.result_type(*models)
    return [xp.astype(x, widest) for x in models], xp


def _shares(weights, models, xp):
    """Each model's share of the sum of the weights, as two numbers of the dtype of logits: rounded, and what that took.

    The tail of a sure row is its exponential: at a margin of 80, one rounding of a share would cost 40 units.
    """
    x = models[0]
    w = as_array(np.ones(len(models)) if weights is None else weights)
    if tuple(w.shape) != (len(models),):
        raise ValueError(f"pool: one weight per model, ({len(models)},); weights is {shape(w)}.")
    wp = namespace(w)
    w = wp.astype(w, wp.float64) if wp is np else xp.astype(as_array(w, like=x), x.dtype)
    wp = namespace(w)
    wrong = ~((w >= 0) & wp.isfinite(w))
    if readable(w) and (bool(wp.any(wrong)) or not bool(wp.any(w > 0))):
        raise ValueError(f"pool: weights are finite and not negative, and not all 0; they are {w.tolist()}.")
    w = wp.where(wrong, wp.nan, w)
    mass, low = w[0], 0.0
    for k in range(1, len(models)):
        mass, error = subtract(mass, -w[k], wp)
        low = low + error
    share = w / mass
    product, error = multiply(share, mass, wp)
    high = wp.astype(share, getattr(wp, dtype_name(x)))
    rest = (((w - product) - error) - share * low) / mass + (share - wp.astype(high, w.dtype))
    high, rest = as_array(high, like=x), as_array(stop_gradient(rest), like=x)
    rest = xp.astype(rest, x.dtype)
    return [(high[k], rest[k]) for k in range(len(models))]


def _log(models, shares, xp):
    """Every model less its maximum, times its share, summed with what rounding took: `split` uses those digits."""
    mean = low = xp.zeros_like(models[0])
    gone = mean > 0
    for z, (share, rest) in zip(models, shares, strict=True):
        x, _ = limit(z, xp)
        absent = x == -xp.inf
        largest = xp.max(stop_gradient(x), axis=-1, keepdims=True)
        largest = xp.where(largest == -xp.inf, xp.zeros_like(largest), largest)
        below, error = subtract(xp.where(absent, largest, x), largest, xp)
        part, part_error = multiply(below, share, xp)
        part = xp.where(absent, xp.zeros_like(part), part)  # keeps XLA from fusing it into the sum, whose error is next
        mean, mean_error = subtract(mean, -part, xp)
        low = low + (mean_error + part_error + error * share + below * rest)
        gone = gone | absent
    low = stop_gradient(xp.where(gone | ~xp.isfinite(low), xp.zeros_like(low), low))
    return _log_probabilities(split(xp.where(gone, -xp.inf, mean), xp, low), xp)


def _linear(models, shares, xp):
    """Above 3/4 the complement ``sum_k w_k (1 - p_k)`` has the digits, below it the mean itself."""
    empty = xp.any(xp.stack([xp.all(x == -xp.inf, axis=-1) for x in models]), axis=0)[..., None]
    logs = [_log_probabilities(split(xp.where(empty, xp.zeros_like(x), x), xp), xp) for x in models]
    nothing = largest = xp.full_like(logs[0], -xp.inf)
    for logp, (share, _) in zip(logs, shares, strict=True):
        seen = xp.where(share == 0, nothing, stop_gradient(logp))
        largest = xp.where((seen > largest) | xp.isnan(seen), seen, largest)
    gone = largest == -xp.inf
    anchor = xp.where(gone, xp.zeros_like(largest), largest)
    complement, mass = xp.zeros_like(anchor), xp.zeros_like(anchor)
    for logp, (share, _) in zip(logs, shares, strict=True):
        there = (logp != -xp.inf) & (share != 0)
        safe = xp.where(there, logp, anchor)
        complement = complement + share * xp.where(there, -xp.expm1(safe), xp.ones_like(safe))
        mass = mass + share * xp.where(there, xp.exp(safe - anchor), xp.zeros_like(safe))
    near = complement < 0.25
    above = xp.log1p(-xp.where(near, complement, xp.zeros_like(complement)))
    below = anchor + xp.log(xp.where(gone | near, xp.ones_like(mass), mass))
    pooled = xp.where(gone, -xp.inf, xp.where(near, above, below))
    return xp.where(empty, xp.nan, pooled)


def _log_probabilities(row, xp):
    """`log_softmax` from the parts of `split`."""
    logp = -surprise(row)
    return xp.where((row.max == -xp.inf)[..., None], xp.full_like(logp, xp.nan), logp)
