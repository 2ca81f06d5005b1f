"""Contrastive losses that judge each pair on its own: by a sigmoid of its similarity, or by a margin of distances."""

import math

from lastlayer._array import arange_like, as_array, dtype_name, floating, namespace, stop_gradient, two_floats
from lastlayer._check import one_of
from lastlayer._check import positive as above_zero
from lastlayer._row import class_index, multiply, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, softplus_of
from lastlayer.loss.contrastive import column, diagonal, entries, kept, scores, single


@dispatched
def siglip(
    similarity: Float[Array, "*batch keys"],
    positive: Int[Array, "*batch"] | Bool[Array, "*batch keys"] | None = None,
    *,
    scale: float | Float[Array, ""],
    bias: float | Float[Array, ""],
    mask: Bool[Array, "*batch keys"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Binary cross-entropy of every pair, summed over the keys: one number per query.

        siglip_i = sum_j softplus(-y_ij (scale * s_ij + bias)),   y = +1 for a positive, -1 for every other key

    (Zhai et al. 2023, algorithm 1, whose result is the mean of the rows.) ``positive`` is the column of each row, or
    bool, True at each match, so a block of a larger matrix may have several or none; without it row i belongs to column
    i, and columns beyond the square are further negatives. ``scale`` above 0 and ``bias`` are numbers, or arrays of one
    that are learned. ``mask`` is True where a key may serve as a negative; what it takes out costs 0 with gradient 0,
    whatever it holds, and positives always count.

    No sum over a row is divided by, so blocks of keys add up. A negative at ``-inf`` costs 0, a positive there ``inf``.
    A row that is not ``valid`` gives 0 with gradient exactly 0. Use it as `clip`, where batches are too small or too
    scattered for a softmax over them.

    >>> siglip(np.array([[0.9, 0.1], [0.2, 0.8]]), scale=10.0, bias=-5.0).round(6)
    array([0.0363  , 0.097175])
    """
    x = scores("siglip", similarity, rows=positive is None)
    xp = namespace(x)
    keep = kept("siglip", valid, x, xp)
    if keep is not None:
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
    matches, x = _matches(x, positive, keep, xp)
    mask = entries("siglip", mask, x, xp)
    if mask is not None:  # at -inf a negative costs nothing
        x = xp.where(mask | matches, x, -xp.inf)
    z, low = _affine(x, scale, bias, xp)
    loss = total(softplus_of(xp.where(matches, -z, z), xp.where(matches, -low, low), xp), xp)
    return counted(loss, keep, xp)


@dispatched
def triplet(
    positive_distance: Float[Array, "*batch"],
    negative_distance: Float[Array, "*batch"],
    *,
    margin: float,
    kind: str = "hinge",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """How far the match of an anchor is from being nearer than another item by the margin: one number per triplet.

        triplet = max(v, 0) or softplus(v),   v = positive_distance - negative_distance + margin

    Both are distances, smaller is nearer; of similarities give ``1 - cosine``. ``kind="hinge"`` is Schroff et al. 2015,
    eq. 3, which takes squared distances; a triplet that keeps the margin costs 0 with gradient 0, also at ``v = 0``
    exactly. ``"softplus"`` pulls further with a slope that never ends (Hermans et al. 2017, the soft margin, where
    ``margin`` is 0). The rounding of the two differences is carried, so ``v`` near 0 is right. An infinite
    ``negative_distance`` costs 0, two infinite ones are nan. A triplet that is not ``valid`` gives 0 with gradient
    exactly 0. Use it where a pair says only which of two is nearer.

    >>> triplet(np.array([0.5, 0.9]), np.array([0.9, 0.8]), margin=0.2).round(4)
    array([0. , 0.3])
    """
    one_of("triplet", "kind", kind, ("hinge", "softplus"))
    if not 0 <= margin < math.inf:
        raise ValueError(f"triplet: margin is a finite distance, not below 0; {margin!r} came.")
    near = floating(positive_distance)
    xp = namespace(near)
    far = aligned("triplet", "negative_distance", negative_distance, "positive_distance", near, near.dtype)
    keep = None if valid is None else aligned("triplet", "valid", valid, "triplet", near, xp.bool)
    if keep is not None:
        near, far = xp.where(keep, near, xp.zeros_like(near)), xp.where(keep, far, xp.zeros_like(far))
    distance, error = subtract(near, far, xp)
    high, rest = _number("triplet", "margin", margin, near)
    v, low = subtract(distance, -high, xp)
    low = low + error + rest
    if kind == "softplus":
        loss = softplus_of(v, low, xp)
    else:
        v = v + low
        loss = xp.where(v <= 0, xp.zeros_like(v), v)
    return counted(loss, keep, xp)


def _matches(x, positive, keep, xp):
    """Which keys belong to their query, and ``x``, nan in a row whose index is none of its columns."""
    given = None if positive is None else as_array(positive, like=x)
    if given is not None and dtype_name(given) == "bool":
        return aligned("siglip", "positive", given, "entry of similarity", x, xp.bool), x
    index = diagonal("siglip", x, xp) if given is None else column("siglip", given, x)
    index = index if keep is None else xp.where(keep, index, xp.zeros_like(index))
    index, x = class_index("siglip", "positive", index, x, xp)
    return arange_like(x, xp) == index[..., None], x


def _affine(x, scale, bias, xp):
    """``scale * x + bias`` and what rounding took from it: at a distance of 80 that is 40 units of a tail."""
    if isinstance(scale, int | float):
        above_zero("siglip", "scale", scale)
    if isinstance(bias, int | float) and not math.isfinite(bias):
        raise ValueError(f"siglip: bias is a finite number, not {bias!r}.")
    (rate, rate_low), (shift, shift_low) = _number("siglip", "scale", scale, x), _number("siglip", "bias", bias, x)
    rate = xp.where(rate > 0, rate, xp.nan)
    infinite = (x == xp.inf) | (x == -xp.inf)
    finite = xp.where(infinite, xp.zeros_like(x), x)
    product, error = multiply(finite, rate, xp)
    z, low = subtract(product, -shift, xp)
    low = low + error + stop_gradient(finite) * rate_low + shift_low
    low = xp.where(infinite | ~xp.isfinite(low), xp.zeros_like(low), low)
    return xp.where(infinite, x * stop_gradient(rate), z), low  # inf teaches the scale nothing, not 0 * inf


def _number(function, name, value, x):
    """A number as the sum of two of the dtype of ``x``, the second a plain float; an array that is learned is exact."""
    high = single(function, name, value, x)
    if not isinstance(value, int | float):
        return high, 0.0
    return high, two_floats(float(value), x)[1]
