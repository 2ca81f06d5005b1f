"""Functions of one number by tables: steps, lines and cubics between knots, on arrays of any library."""

import numpy as np

from lastlayer._array import as_array, floating, namespace, restore, stop_gradient


class Lookup:
    """A logit to look up by, flat and in the library it came in; nan stays nan, whatever the table says."""

    def __init__(self, logits):
        self.logits = logits
        self.x = floating(logits)
        self.xp = namespace(self.x)
        # PyTorch copies, with a warning, what is not contiguous; a sum is contiguous, or becomes so by reshape.
        self.flat = self.xp.reshape(self.x + 0.0, (-1,))

    def constant(self, values):
        """A table's column in the library, dtype and device of the logits."""
        return self.xp.astype(as_array(values, like=self.x), self.x.dtype)

    def below(self, edges, side="left"):
        """How many ``edges`` lie below each number; ``side="right"``: or are equal to it."""
        return self.xp.searchsorted(self.constant(edges), stop_gradient(self.flat), side=side)

    def take(self, values, index):
        return self.xp.take(self.constant(values), index, axis=0)

    def shaped(self, y):
        y = self.xp.where(self.xp.isnan(self.flat), self.flat, y)
        return restore(self.xp.reshape(y, self.x.shape), self.logits)


def step(logits, edges, levels, side="left"):
    """``levels[i]`` on ``edges[i - 1] < logits <= edges[i]``; ``side="right"``: an edge begins the step above it."""
    table = Lookup(logits)
    return table.shaped(table.take(levels, table.below(edges, side)))


def interpolate(logits, knots, levels):
    """Straight lines between the points (knot, level), constant beyond them."""
    if len(knots) == 1:
        return step(logits, knots, np.repeat(levels, 2))
    table = Lookup(logits)
    xp, x = table.xp, table.flat
    index = table.below(knots)
    inside = (index > 0) & (index < len(knots))
    index = xp.where(inside, index, xp.ones_like(index))
    left, right = table.take(knots, index - 1), table.take(knots, index)
    low, high = table.take(levels, index - 1), table.take(levels, index)
    width = right - left  # 0 where two knots are one number in float32
    share = (xp.where(inside, x, left) - left) / xp.where(width > 0, width, xp.ones_like(width))
    between = low + (high - low) * share
    first, last = (xp.full_like(x, float(level)) for level in (levels[0], levels[-1]))
    return table.shaped(xp.where(inside, between, xp.where(x <= float(knots[0]), first, last)))


def hermite(logits, knots, values, slopes):
    """The cubics with these values and slopes at the knots; beyond them the straight lines that leave them."""
    table = Lookup(logits)
    xp, x = table.xp, table.flat
    index = table.below(knots)
    inside = (index > 0) & (index < len(knots))
    index = xp.where(inside, index, xp.ones_like(index))
    left, width = table.take(knots, index - 1), table.take(np.diff(knots), index - 1)
    low, rise = table.take(values, index - 1), table.take(np.diff(values), index - 1)
    first, last = table.take(slopes, index - 1) * width, table.take(slopes, index) * width
    t = (xp.where(inside, x, left) - left) / width
    between = low + t * (first + t * ((3 * rise - 2 * first - last) + t * (first + last - 2 * rise)))
    return table.shaped(xp.where(inside, between, _beyond(x, knots, values, slopes, xp)))


def _beyond(x, knots, values, slopes, xp):
    """The lines that leave the first and the last knot; one that is level stays so at infinity."""
    below = x <= float(knots[0])
    y = xp.zeros_like(x)
    for side, end in ((below, 0), (~below, -1)):
        knot, value, slope = float(knots[end]), float(values[end]), float(slopes[end])
        line = value + slope * (x - knot) if slope else xp.full_like(x, value)
        y = xp.where(side, line, y)
    return y
