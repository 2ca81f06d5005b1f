"""Logits as probabilities: softmax and its logarithm, and logsumexp, the number that normalises them."""

import decimal
import math

from lastlayer._array import as_array, last_axis, restore, stop_gradient, two_floats
from lastlayer._check import one_of, positive, shape
from lastlayer._row import multiply, prepare, split, subtract
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched


@dispatched
def softmax(
    logits: Float[Array, "*batch classes"], *, temperature=1.0, base=math.e, axis=-1, empty="nan", out=None
) -> Float[Array, "*batch classes"]:
    """Probabilities of the classes, one distribution per row.

        softmax(z)_i = base^(z_i / temperature) / sum_j base^(z_j / temperature)

    Adding a constant to a row changes nothing. A class masked with ``-inf`` gets exactly 0, whatever the base; entries
    of ``+inf`` share the row between them. A row with nothing left (all ``-inf``) is nan, or ``empty="uniform"`` or
    ``"zero"``. A nan stays in its row. ``temperature`` is a number, or one per row as ``temperature[:, None]``. float16
    and bfloat16 are computed in float32. ``out`` (NumPy, PyTorch) receives the result.

    >>> softmax(np.array([2.0, 1.0, -np.inf]), base=2).round(4)
    array([0.6667, 0.3333, 0.    ])
    """
    one_of("softmax", "empty", empty, ("nan", "uniform", "zero"))
    x, xp = prepare(logits, axis)
    row = tempered("softmax", x, temperature, base, axis, xp)
    p = shares(row)
    fill = {"nan": math.nan, "uniform": 1 / x.shape[-1], "zero": 0.0}[empty]
    p = xp.where((row.max == -xp.inf)[..., None], xp.full_like(p, fill), p)
    p = restore(p if axis in (-1, p.ndim - 1) else xp.moveaxis(p, -1, axis), logits)
    if out is None:
        return p
    out[...] = p
    return out


@dispatched
def log_softmax(
    logits: Float[Array, "*batch classes"], *, temperature=1.0, base=math.e, axis=-1, empty="nan"
) -> Float[Array, "*batch classes"]:
    """Log-probabilities (natural) of the classes, exact where the probability rounds to 1.

        log_softmax(z)_i = z_i - logsumexp(z)

    The largest entry is ``-log1p(rest)``, so a confident row keeps its tail: 0 comes out only where it underflows.
    Edges as in `softmax`: masked classes are ``-inf``, an empty row is nan (``empty="uniform"``: ``-log(classes)``,
    ``"zero"``: ``-inf``).

    >>> log_softmax(np.array([40.0, 0.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    one_of("log_softmax", "empty", empty, ("nan", "uniform", "zero"))
    x, xp = prepare(logits, axis)
    row = tempered("log_softmax", x, temperature, base, axis, xp)
    logp = -surprise(row)
    fill = {"nan": math.nan, "uniform": -math.log(x.shape[-1]), "zero": -math.inf}[empty]
    logp = xp.where((row.max == -xp.inf)[..., None], xp.full_like(logp, fill), logp)
    return restore(logp if axis in (-1, logp.ndim - 1) else xp.moveaxis(logp, -1, axis), logits)


@dispatched
def logsumexp(logits: Float[Array, "*batch classes"], *, axis=-1) -> Float[Array, "..."]:
    """Logarithm of the sum of exponentials, the normaliser of softmax; one number per row.

        logsumexp(z) = m + log1p(rest),   m = max(z),   rest = sum over the others of exp(z_i - m)

    ``-inf`` entries are as if absent; an empty row is ``-inf`` with gradient 0; any ``+inf`` gives ``+inf`` with its
    limit softmax as gradient. The gradient is `softmax` everywhere else.

    >>> float(logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    """
    x, xp = prepare(logits, axis)
    return restore(normaliser(split(x, xp)), logits)


def shares(row):
    """The probability of every class, from the parts of `split`."""
    others = row.terms() / (1 + row.rest_from_max())[..., None]
    return row.xp.where(row.is_top, (1 / (1 + row.rest_from_top()))[..., None], others)


def normaliser(row):
    """``logsumexp`` of a row, from the parts of `split`."""
    return (row.max + row.xp.log1p(row.rest_from_max())) + row.removed


def surprise(row):
    """``-log p`` of every class, from the parts of `split`: each with the form whose value and slope keep the tail."""
    xp = row.xp
    others = (row.max[..., None] - row.x) + xp.log1p(row.rest_from_max())[..., None]
    return xp.where(row.is_top, xp.log1p(row.rest_from_top())[..., None], others)


def tempered(function, x, temperature, base, axis, xp):
    """The parts of ``x * log(base) / temperature``, with masked classes still masked (also for a base below 1).

    The maximum is taken off first: rounding ``x / temperature`` would cost digits of ``x``, not of the differences.
    What the product and the quotient round away is carried along: at a distance of 80 it is 40 units of the result.
    """
    if not (base > 0 and base != 1 and base < math.inf):
        raise ValueError(f"{function}: base is a finite number above 0 and not 1, not {base!r}.")
    number = isinstance(temperature, int | float)
    if number:
        positive(function, "temperature", temperature)
        if temperature == 1 and base == math.e:
            return split(x, xp)
    x = x if base > 1 else xp.where(x == -xp.inf, x, -x)
    infinite = (x == xp.inf) | (x == -xp.inf)
    finite = xp.where(infinite, xp.zeros_like(x), x)
    largest = xp.max(xp.where(infinite, -xp.inf, stop_gradient(x)), axis=-1, keepdims=True)
    largest = xp.where(largest == -xp.inf, xp.zeros_like(largest), largest)
    rate, rest = _rate(base, temperature if number else 1, xp.ones_like(largest))
    difference, error = subtract(finite, largest, xp)
    below, low = multiply(difference, rate, xp)
    low, removed = low + (error * rate + difference * rest), largest * rate
    if not number:
        temperature = per_row(function, temperature, x, axis, xp)
        quotient = below / temperature
        product, error = multiply(quotient, temperature, xp)
        low = (((below - product) - error) + low) / temperature
        below, removed = quotient, removed / temperature
    low = stop_gradient(xp.where(infinite | ~xp.isfinite(low), xp.zeros_like(low), low))
    return split(xp.where(infinite, x, below), xp, low, removed[..., 0])


def _rate(base, temperature, one):
    """``|log(base)| / temperature`` as the sum of two numbers of the dtype of ``one``; ``math.e`` stands for e."""
    with decimal.localcontext(prec=50):
        exact = decimal.Decimal(1) if base == math.e else abs(decimal.Decimal(base).ln())
        high, low = two_floats(exact / decimal.Decimal(temperature), one)
    return one * high, one * low


def per_row(function, temperature, x, axis, xp):
    """An array of temperatures as one that broadcasts over the classes; where it is not above 0 the row is nan."""
    temperature = xp.astype(as_array(temperature, like=x), x.dtype)
    if temperature.ndim == x.ndim:
        temperature = last_axis(temperature, axis, xp)
    if temperature.ndim and (temperature.ndim != x.ndim or temperature.shape[-1] != 1):
        raise ValueError(
            f"{function}: temperature is a number, or one per row as temperature[:, None]. logits are {shape(x)}, "
            f"temperature is {shape(temperature)}."
        )
    return xp.where(temperature > 0, temperature, xp.nan)
