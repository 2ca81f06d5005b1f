"""Classes taken out of a row of logits: constrained decoding, illegal moves, labels that do not apply."""

import numpy as np

from lastlayer._array import arange_like, as_array, dtype_name, restore
from lastlayer._check import shape
from lastlayer._row import prepare
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched

_WORD = 32  # bits in a word of a packed mask


@dispatched
def mask(
    logits: Float[Array, "*batch classes"], allowed: Bool[Array, "..."] | Int[Array, "... words"]
) -> Float[Array, "*batch classes"]:
    """Logits with the classes that are not allowed at ``-inf``, whatever they held, nan and ``+inf`` included.

        mask(z)_i = z_i where allowed_i, else -inf

    ``allowed`` is bool, of a shape that broadcasts to logits, or the packed mask of xgrammar and llguidance: int32
    words ``(..., ceil(classes / 32))``, the lowest bit of the first word being class 0; bits beyond the classes are
    ignored. The dtype says which. A class taken out has gradient exactly 0; a row with no class left is empty. Another
    dtype is a TypeError, a width that does not fit a ValueError.

    >>> mask(np.array([[2.0, np.nan, 1.0]]), np.array([True, False, True]))
    array([[  2., -inf,   1.]])
    >>> mask(np.array([[2.0, np.nan, 1.0]]), np.array([[0b101]], dtype=np.int32))
    array([[  2., -inf,   1.]])
    """
    x, xp = prepare(logits, -1)
    allowed = as_array(allowed)
    kind = dtype_name(allowed)  # before it joins the logits: JAX would narrow int64 to int32
    if kind not in ("bool", "int32"):
        raise TypeError(
            f"mask: allowed is bool, or a packed mask of int32 words, not {kind}. Write allowed.astype(bool) for 0 and "
            f"1, words.view(int32) for other words."
        )
    allowed = as_array(allowed, like=x)
    if kind == "int32":
        allowed = _unpacked(allowed, x, xp)
    if not _broadcasts(allowed.shape, x.shape):
        raise ValueError(
            f"mask: allowed broadcasts to logits. logits {shape(x)} has {x.shape[-1]} classes, allowed is "
            f"{shape(allowed)}."
        )
    return restore(xp.where(allowed & (x != -xp.inf), x, -xp.inf), logits)  # no slope for a class masked before


def _unpacked(words, x, xp):
    """The bits of the classes, bool. Bit 31 is the sign, which an arithmetic shift leaves as the lowest bit."""
    classes, needed = x.shape[-1], -(-x.shape[-1] // _WORD)
    if words.ndim == 0 or words.shape[-1] != needed:
        came = words.shape[-1] if words.ndim else 0
        raise ValueError(
            f"mask: a packed mask has one bit per class. {classes} classes take {needed} words of int32, allowed "
            f"{shape(words)} has {came}."
        )
    place = arange_like(x, xp)
    bit = xp.astype(place % _WORD, words.dtype)
    return (xp.bitwise_right_shift(xp.take(words, place // _WORD, axis=-1), bit) & 1) != 0


def _broadcasts(part, whole):
    """Whether an array of one shape broadcasts to the other without making it larger."""
    try:
        return np.broadcast_shapes(tuple(part), tuple(whole)) == tuple(whole)
    except ValueError:
        return False
