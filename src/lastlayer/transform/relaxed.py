"""A random choice with a gradient: the Gumbel-softmax sample, and the straight-through one-hot."""

from lastlayer._array import arange_like, restore, stop_gradient
from lastlayer._check import positive
from lastlayer._random import gumbel
from lastlayer._row import limit, prepare
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched
from lastlayer.transform.softmax import softmax


@dispatched
def gumbel_softmax(
    logits: Float[Array, "*batch classes"], key, *, temperature=1.0, axis=-1
) -> Float[Array, "*batch classes"]:
    """A random point near a corner of the simplex, differentiable in the logits.

        gumbel_softmax(z, key) = softmax((z + g) / temperature),   g_i = -log(-log u_i)

    Its largest entry is class k with probability ``softmax(z)_k``, at every temperature (Jang, Gu & Poole 2017, eq. 2;
    Maddison, Mnih & Teh 2017). ``g`` is a function of the key, the position of the row and the class alone: the
    same in every array library, and no other row or class changes it. ``key`` is an integer from 0 to 2**64 - 1 or a
    JAX key; or one such per row, of shape ``(*batch,)``, and then a row follows from its own key wherever it stands.
    Under ``vmap`` every mapped row is at position 0, so map over keys as well. A new draw needs a new key.

    ``temperature`` is a number above 0, or one per row as ``temperature[:, None]``. Edges as in `softmax`: masked
    classes get exactly 0, an empty row is nan with gradient 0, a nan stays in its row, and classes at ``+inf`` draw
    for the row between them.

    >>> gumbel_softmax(np.array([2.0, 1.0, -np.inf]), 7).round(4)
    array([0.9802, 0.0198, 0.    ])
    """
    if isinstance(temperature, int | float):
        positive("gumbel_softmax", "temperature", temperature)
    x, xp = prepare(logits, axis)
    noise = gumbel("gumbel_softmax", key, x, xp)
    x, _ = limit(x, xp)
    # the maximum goes first: at 1e6 a float32 logit has no digits left for the noise
    largest = xp.max(stop_gradient(x), axis=-1, keepdims=True)
    x = x - xp.where(largest == -xp.inf, xp.zeros_like(largest), largest)
    noisy = x + noise
    noisy = noisy if axis in (-1, noisy.ndim - 1) else xp.moveaxis(noisy, -1, axis)
    return restore(softmax(noisy, temperature=temperature, axis=axis), logits)


@dispatched
def straight_through(probs: Float[Array, "*batch classes"], *, axis=-1) -> Float[Array, "*batch classes"]:
    """The one-hot of the largest probability, with the gradient of the probabilities themselves.

        straight_through(p) = onehot(argmax p),   slope 1 (Bengio, Léonard & Courville 2013)

    The entries are exactly 0 and 1, and of equal probabilities the first is chosen. A row of zeros, as
    ``softmax(empty="zero")`` leaves an empty one, has no class to choose and stays zeros. A row that is not finite is
    nan, and so is its gradient.

    >>> straight_through(np.array([[0.2, 0.5, 0.3], [0.5, 0.5, 0.0]]))
    array([[0., 1., 0.],
           [1., 0., 0.]])
    """
    p, xp = prepare(probs, axis)
    fixed = stop_gradient(p)
    chosen = (arange_like(p, xp) == xp.argmax(fixed, axis=-1)[..., None]) & xp.any(fixed != 0, axis=-1)[..., None]
    finite = xp.all(xp.isfinite(fixed), axis=-1)[..., None]
    # the difference first: it is exactly 0, where (hard + p) - p can be 0.99999994
    hard = xp.astype(chosen, p.dtype) + (p - fixed)
    hard = hard * xp.where(finite, xp.ones_like(p), xp.full_like(p, xp.nan))
    return restore(hard if axis in (-1, hard.ndim - 1) else xp.moveaxis(hard, -1, axis), probs)
