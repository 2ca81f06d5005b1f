"""Divergences as the textbooks write them, with 120 digits."""

import mpmath

from reference import softmax


def divergence(q, p):
    """KL(q || p)."""
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(q, p, strict=True) if a)


def distill(x, teacher, kind="forward", temperature=1, rescale=True):
    p, q = (softmax([v / mpmath.mpf(temperature) for v in row]) for row in (x, teacher))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    loss = {
        "forward": lambda: divergence(q, p),
        "reverse": lambda: divergence(p, q),
        "jensen_shannon": lambda: (divergence(q, middle) + divergence(p, middle)) / 2,
    }[kind]()
    loss = loss if abs(loss) > mpmath.mpf(10) ** (10 - mpmath.mp.dps) else mpmath.mpf(0)  # what the digits leave of 0
    return [loss * (mpmath.mpf(temperature) ** 2 if rescale else 1)]
