"""One logit on its own: sigmoid and its relatives, elementwise, exact in both tails."""

from lastlayer import _odds
from lastlayer._array import floating, namespace, restore
from lastlayer._check import positive
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched


@dispatched
def sigmoid(logits: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Probability of the positive class from its logit.

        sigmoid(z) = 1 / (1 + exp(-z))

    ``sigmoid(-inf) = 0``, ``sigmoid(inf) = 1``; small probabilities keep full relative precision.

    >>> sigmoid(np.array([0.0, -40.0]))
    array([5.00000000e-01, 4.24835426e-18])
    """
    x = floating(logits)
    xp = namespace(x)
    small = xp.exp(-_magnitude(x, xp))
    return restore(xp.where(x < 0, small, xp.ones_like(x)) / (1 + small), logits)


@dispatched
def log_sigmoid(logits: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Logarithm of `sigmoid`: ``-softplus(-z)``, exact where the probability rounds to 1.

    >>> float(log_sigmoid(40.0))
    -4.248354255291589e-18
    """
    x = floating(logits)
    return restore(-_softplus(-x, namespace(x)), logits)


@dispatched
def softplus(logits: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """The smooth maximum with 0, the loss of a binary logit.

        softplus(z) = log(1 + exp(z))

    Its slope is ``sigmoid(z)``, also at 0, where ``max(z, 0) + log1p(exp(-|z|))`` gives 0 or 1 under autograd.
    ``softplus(inf) = inf``, ``softplus(-inf) = 0``.

    >>> softplus(np.array([-40.0, 0.0, 40.0]))
    array([4.24835426e-18, 6.93147181e-01, 4.00000000e+01])
    """
    x = floating(logits)
    return restore(_softplus(x, namespace(x)), logits)


@dispatched
def logit(probs: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Log-odds of a probability, the inverse of `sigmoid`.

        logit(p) = log(p) - log(1 - p)

    ``logit(0) = -inf``, ``logit(1) = inf``; outside [0, 1] it is nan. Near 1/2 the two logarithms cancel, so there it
    is ``log1p((1 - 2q) / q)`` with the sign of the side, where ``q`` is the smaller of ``p`` and ``1 - p`` and
    ``1 - 2q`` is exact.

    >>> logit(np.array([0.0, 0.5, 1.0, 1.5]))
    array([-inf,   0.,  inf,  nan])
    """
    p = floating(probs)
    return restore(_odds.logit(p, namespace(p)), probs)


@dispatched
def log1mexp(logp: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Logarithm of the complementary probability: ``log(1 - exp(logp))`` for ``logp <= 0``.

    ``log(-expm1(x))`` above ``-log 2`` and ``log1p(-exp(x))`` below (Mächler 2012, eq. 7). 0 gives ``-inf``; above 0 it
    is nan.

    >>> log1mexp(np.array([-1e-20, -50.0]))
    array([-4.60517019e+01, -1.92874985e-22])
    """
    x = floating(logp)
    return restore(_odds.log1mexp(x, namespace(x)), logp)


@dispatched
def softcap(logits: Float[Array, "*any"], cap: float) -> Float[Array, "*any"]:
    """Logits squeezed smoothly into (-cap, cap), as Gemma 2 does before its loss.

        softcap(z) = cap * tanh(z / cap)

    ``cap`` is a finite number above 0. ``+inf`` becomes ``cap``; a class masked with ``-inf`` stays masked.

    >>> softcap(np.array([1000.0, -np.inf]), 30.0)
    array([ 30., -inf])
    """
    x = floating(logits)
    return restore(capped("softcap", "cap", x, cap, namespace(x)), logits)


def capped(function, parameter, x, cap, xp):
    """`softcap` of an array to compute with, for a function that has a parameter of its own for it."""
    positive(function, parameter, cap)
    return xp.where(x == -xp.inf, -xp.inf, cap * xp.tanh(x / cap))


def _magnitude(x, xp):
    """``|x|`` with slope 1 at 0, so that the two branches of a function of it meet with their own slopes."""
    return xp.where(x < 0, -x, x)


def _softplus(x, xp):
    zero = xp.zeros_like(x)
    above, below = xp.where(x > 0, x, zero), xp.where(x > 0, zero, x)
    return xp.where(x > 0, above + xp.log1p(xp.exp(-above)), xp.log1p(xp.exp(below)))
