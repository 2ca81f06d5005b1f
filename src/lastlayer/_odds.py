"""Probabilities as log-odds, one at a time, with no digit lost: what `transform.logit` and `Outputs.logits` share."""


def logit(p, xp):
    """``log(p) - log(1 - p)``; near 1/2 the two cancel, so there it is a log1p of something exact."""
    middle, below = (p > 0.25) & (p < 0.75), p < 0.5
    half = xp.full_like(p, 0.5)
    inside, outside = xp.where(middle, p, half), xp.where(middle, half * 0.5, p)
    q = xp.where(below, inside, 1 - inside)
    near = xp.log1p((1 - 2 * q) / q)
    near = xp.where(below, -near, near)
    return xp.where(middle, near, xp.log(outside) - xp.log1p(-outside))


_EDGE = -1.2  # not -log 2: XLA's float64 log1p is off by 128 units between -0.45 and -0.3


def log1mexp(logp, xp):
    """``log(1 - exp(logp))``, split near where either form begins to cancel (Mächler 2012, eq. 7)."""
    close = logp > _EDGE
    edge = xp.full_like(logp, _EDGE)
    near, far = xp.where(close, logp, edge), xp.where(close, edge, logp)
    complement = 0.0 - xp.expm1(near)  # +0 at 0: the logarithm of -0 has a slope of the wrong sign
    return xp.where(close, xp.log(complement), xp.log1p(-xp.exp(far)))
