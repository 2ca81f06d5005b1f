"""A number with its interval, and the intervals that need no resampling: all 95 %."""

import numpy as np

Z95 = 1.959963984540054


class Metric(float):
    """A measured value that is a float, with its 95 % interval ``low, high`` and the rows ``n`` behind it.

    ``bound`` is the half-width by which a value read from a binned state may differ from the exact one (0 if exact);
    the interval includes it.

    >>> Metric(0.25, 0.2, 0.3, 100)
    Metric(0.25, low=0.2, high=0.3, n=100)
    """

    low: float
    high: float
    n: int
    bound: float

    def __new__(cls, value, low, high, n, bound=0.0):
        self = super().__new__(cls, value)
        self.low, self.high, self.n, self.bound = float(low), float(high), int(n), float(bound)
        return self

    def __getnewargs__(self):
        return float(self), self.low, self.high, self.n, self.bound

    @property
    def value(self) -> float:
        return float(self)

    def __repr__(self):
        return f"Metric({float(self):.6g}, low={self.low:.6g}, high={self.high:.6g}, n={self.n})"

    def to_dict(self) -> dict:
        """``{"value", "low", "high", "n"}``, and ``"bound"`` where there is one; what is not finite is None."""
        record = {"value": float(self), "low": self.low, "high": self.high}
        record = {key: v if np.isfinite(v) else None for key, v in record.items()} | {"n": self.n}
        return record | {"bound": self.bound} if self.bound else record


def normal(value, error, n, low=-np.inf, high=np.inf, z=Z95) -> Metric:
    """``value +- z error`` inside the range the quantity has; an error nobody knows leaves that whole range."""
    if not np.isfinite(error):
        return Metric(value, low, high, n)
    return Metric(value, max(value - z * error, low), min(value + z * error, high), n)


def wilson(share, effective, n, z=Z95) -> Metric:
    """The score interval of a proportion (Wilson 1927), with the effective number of rows where they are weighted."""
    if not effective > 0:
        return Metric(np.nan, 0.0, 1.0, n)
    middle, half = score_interval(share, effective, z)
    # At a share of 0 or 1 one end is the share itself, but for rounding.
    return Metric(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)), n)


def simultaneous(count) -> float:
    """Standard errors to each side so that ``count`` 95 % intervals hold all at once (Bonferroni)."""
    from scipy.special import ndtri

    return float(-ndtri(0.025 / max(count, 1)))


def score_interval(share, effective, z):
    """Middle and half-width of Wilson's interval, ``z`` standard errors wide to each side."""
    z2 = z**2 / effective
    middle = (share + z2 / 2) / (1 + z2)
    return middle, z * np.sqrt(share * (1 - share) / effective + z2 / (4 * effective)) / (1 + z2)


def on_logit_scale(value, error, n, fewest, bound=0.0) -> Metric:
    """An interval for an area in [0, 1], symmetric in its log-odds, widened by the ``bound`` of a binned reading.

    At exactly 0 or 1 the error is 0; then it is the exact interval of no event in the ``fewest`` rows of one class.
    """
    if not 1e-12 < value < 1 - 1e-12:  # 1e-12: what rounding leaves of an area that is 0 or 1
        room = 1 - 0.025 ** (1 / max(fewest, 1)) if np.isfinite(value) else 1.0
        low, high = (value - room, value) if value > 0.5 else (value, value + room)
        return Metric(value, max(low - bound, 0.0), min(high + bound, 1.0), n, bound)
    center, half = np.log(value) - np.log1p(-value), Z95 * error / (value * (1 - value))
    low, high = (1 / (1 + np.exp(-(center + sign * half))) for sign in (-1, 1))
    return Metric(value, max(low - bound, 0.0), min(high + bound, 1.0), n, bound)
