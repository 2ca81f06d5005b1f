"""The k largest logits of a row, the others taken out: a first filter before sampling."""

from lastlayer._array import restore, stop_gradient
from lastlayer._row import prepare
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched


@dispatched
def top_k(logits: Float[Array, "*batch classes"], k: int) -> Float[Array, "*batch classes"]:
    """Logits with all but the ``k`` largest of each row at ``-inf``.

        top_k(z)_i = z_i where fewer than k entries are larger, or equal and earlier, else -inf

    Of equal logits the first are kept, so k classes are left, or as many as were there. A class taken out has gradient
    exactly 0; a row that holds a nan has no order and is nan. ``k`` is a whole number of at least 1.

    >>> top_k(np.array([3.0, 1.0, 2.0, 2.0]), 2)
    array([  3., -inf,   2., -inf])
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"top_k: k is a whole number of at least 1, not {k!r}.")
    x, xp = prepare(logits, -1)
    undefined = xp.any(xp.isnan(x), axis=-1, keepdims=True)
    x = x * xp.where(undefined, xp.full_like(x, xp.nan), xp.ones_like(x))
    order = xp.argsort(-stop_gradient(x), axis=-1, stable=True)
    kept = (xp.argsort(order, axis=-1, stable=True) < k) & (x != -xp.inf)  # no slope for a class masked before
    return restore(xp.where(kept | undefined, x, -xp.inf), logits)
