"""What losses of one class per row share: arguments brought into line, cost of the target, numbers per class."""

import functools
import math

import numpy as np

from lastlayer._array import (
    arange_like,
    as_array,
    dtype_name,
    floating,
    namespace,
    readable,
    stop_gradient,
    take,
    two_arrays,
)
from lastlayer._check import shape
from lastlayer._row import class_index, limit, multiply, prepare, split, subtract
from lastlayer.loss._parts import aligned, counted
from lastlayer.transform.softmax import surprise


def indexed(function, logits, target, valid):
    """Logits to compute with, the class of each row, which rows count (None: all of them), and the namespace.

    A row that does not count holds zeros from here on, and its target is class 0: nothing in it is ever looked at.
    """
    x, xp = prepare(logits, -1)
    target = as_array(target, like=x)
    if dtype_name(target).startswith(("float", "bfloat")):
        raise ValueError(f"{function}: target is the index of a class, an integer: target.astype(int).")
    target = aligned(function, "target", target, "row of logits", x[..., 0], target.dtype)
    keep = None
    if valid is not None:
        keep = aligned(function, "valid", valid, "row of logits", x[..., 0], xp.bool)
        target = xp.where(keep, target, xp.zeros_like(target))
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
    target, x = class_index(function, "target", target, x, xp)
    return x, target, keep, xp


def named(index, x, xp):
    """Which classes of each row ``index``, ``(*batch, k)``, names."""
    classes = arange_like(x, xp)
    return functools.reduce(xp.logical_or, (classes == index[..., i : i + 1] for i in range(index.shape[-1])))


def distinct(function, name, index, x, xp):
    """``x``, after checking that no row of ``index`` names a class twice; where nobody may look that row is nan."""
    ordered = xp.sort(index, axis=-1)
    twice = xp.any(ordered[..., 1:] == ordered[..., :-1], axis=-1, keepdims=True)
    if readable(index) and bool(xp.any(twice)):
        raise ValueError(f"{function}: {name} names each class of a row once; one is named twice.")
    return xp.where(twice, xp.nan, x)


def cost_of(row, target):
    """``-log p`` of the target; 0 for an empty row, which has none."""
    xp = row.xp
    cost = take(surprise(row), target, xp)
    return xp.where(row.max == -xp.inf, xp.zeros_like(cost), cost)


def finished(loss, row, keep):
    """``loss``; nan for an empty row, 0 for one that does not count."""
    xp = row.xp
    loss = xp.where(row.max == -xp.inf, xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


def per_class(function, name, array, x, zero=False):
    """One number per class, finite and above 0 (or 0 too): in float64 where it came in NumPy, else beside ``x``.

    A prior rounded to float32 would cost digits of the loss.
    """
    each = as_array(array)
    each = each.astype(np.float64) if namespace(each) is np else floating(each, like=x)
    if tuple(each.shape) != (x.shape[-1],):
        raise ValueError(f"{function}: one {name} per class, ({x.shape[-1]},); {name} is {shape(each)}.")
    return above_0(function, name, each, zero)


def above_0(function, name, each, zero):
    """``each`` after a look at its values: a wrong one is refused, or makes all of them nan where nobody may look."""
    xp = namespace(each)
    wrong = ~(((each >= 0) if zero else (each > 0)) & (each < xp.inf))
    if readable(each) and bool(xp.any(wrong)):
        bound = "not below" if zero else "above"
        raise ValueError(f"{function}: {name} is finite and {bound} 0 for each class, not {float(each[wrong][0]):g}.")
    return xp.where(xp.any(wrong), xp.nan, each)


def not_negative(function, parameter, value):
    if not 0 <= value < math.inf:
        raise ValueError(f"{function}: {parameter} is finite and not below 0; {value!r} came.")


def moved(x, high, low, scale, xp):
    """The parts of ``scale (x + high + low)``.

    The maximum is taken off first, so that a shift of the row rounds nothing, and what each step rounds away is kept.
    """
    x, infinite = limit(x, xp)
    largest = stop_gradient(xp.max(x, axis=-1, keepdims=True))
    below, first = subtract(x, xp.where(largest == -xp.inf, xp.zeros_like(largest), largest), xp)
    below, second = subtract(below, -high, xp)
    rate, rate_low = two_arrays(np.asarray(float(scale)), x)
    scaled, third = multiply(below, rate, xp)
    low = stop_gradient((first + second + low) * rate + below * rate_low + third)
    return split(scaled, xp, xp.where(xp.isfinite(low), low, xp.zeros_like(low)), infinite)
