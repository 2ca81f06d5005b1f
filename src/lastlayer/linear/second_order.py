"""The second derivative of a last layer's cross-entropy times a direction, streamed."""

from typing import NamedTuple

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import shape
from lastlayer._typing import Array, Float
from lastlayer.linear.call import PLAIN, Call
from lastlayer.linear.gradients import Gradients, Wanted
from lastlayer.linear.tile import head_slopes, over_rows


class HessianProduct(NamedTuple):
    """The product, in the shapes of weight and bias."""

    weight: np.ndarray
    bias: np.ndarray | None


def linear_hessian_product(
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    direction: Float[Array, "classes width"],
    *,
    bias: Float[Array, " classes"] | None = None,
    bias_direction: Float[Array, " classes"] | None = None,
    row_weight: Float[Array, "*batch"] | None = None,
    memory: int | str = "64MiB",
) -> HessianProduct:
    """Hessian of ``sum(row_weight * linear_cross_entropy)`` in weight and bias times a direction; NumPy arrays.

        H v = sum_i w_i (p_i * (u_i - p_i . u_i)) f_i^T,   u_i = direction f_i + bias_direction

    p being the softmax of row i. The logits are linear in the weight, so this is the Gauss-Newton product too, and no
    target enters it. ``bias_direction`` goes with a ``bias``, and is 0 by default; ``row_weight`` is 1. Two tiles are
    there at a time, each of half the ``memory``; neither the logits nor their directions ever are. An empty row adds
    nothing. A budget below one tile is refused, naming the smallest that works.

    >>> features, weight = np.array([[1.0, 2.0]]), np.zeros((2, 2))
    >>> linear_hessian_product(features, weight, np.array([[1.0, 0.0], [0.0, 0.0]])).weight
    array([[ 0.25,  0.5 ],
           [-0.25, -0.5 ]])
    """
    function = "linear_hessian_product"
    features, weight, direction = (to_numpy(x) for x in (features, weight, direction))
    if direction.shape != weight.shape:
        raise ValueError(f"{function}: direction is as weight, {shape(weight)}; it is {shape(direction)}.")
    if bias is None and bias_direction is not None:
        raise ValueError(f"{function}: bias_direction goes with a bias; there is none.")
    turned = None if bias is None else np.zeros(len(weight)) if bias_direction is None else bias_direction
    nowhere = np.zeros(features.shape[:-1], np.int64)
    call = Call.of(function, features, weight, nowhere, bias, None, PLAIN, memory)
    direction, turned = (None if v is None else np.asarray(v, call.dtype) for v in (direction, turned))
    along = Call.of(function, features, direction, nowhere, turned, None, PLAIN, memory)
    scale = np.ones(nowhere.size) if row_weight is None else call.cotangents(row_weight)
    head, other = call.head(True, 2, 2), along.head(True, 2, 2)
    made = _product(head, other, scale, Wanted(False, True, bias is not None))
    return HessianProduct(made.weight, None if bias is None else made.bias.astype(made.weight.dtype))


def _product(head, other, scale, wanted):
    """The sum over the tiles of ``w p (u - p . u) f^T``; tiles of whole rows are made once."""
    out, first, second = Gradients(head, wanted), head.room(), other.room()
    nowhere = np.zeros(head.plan.rows, np.int64)
    with np.errstate(all="ignore"):  # written for limits
        for rows in head.groups():
            parts, tile = head.parts(rows, first, nowhere)
            if head.plan.sweeps == 1:
                ((block, along),) = other.tiles(rows, second)
                _shared(tile, parts)
                mean, pairs = _means(tile, along), [(block, tile, along)]
            else:
                mean = sum(_means(tile, along) for _, tile, along in _pairs(head, other, rows, parts, first, second))
                pairs = _pairs(head, other, rows, parts, first, second)
            for block, tile, along in pairs:
                over_rows(_turned, along, tile, mean, scale[rows])
                out.add(rows, block, along)
    return out


def _pairs(head, other, rows, parts, first, second):
    """Block by block, the probabilities of some rows and their logits along the direction."""
    for (block, tile), (_, along) in zip(head.tiles(rows, first), other.tiles(rows, second), strict=True):
        _shared(tile, parts)
        yield block, tile, along


def _shared(tile, parts):
    """Write the probabilities over a tile of logits."""
    none = np.zeros(len(parts.rest))
    over_rows(head_slopes, tile, parts.largest, 1 / (1 + parts.rest), none, none, 0.0)


def _means(shares, along):
    return np.concatenate(over_rows(_mean, shares, along))


def _mean(shares, along):
    """``p . u`` of each row."""
    return np.einsum("ij,ij->i", shares, along, dtype=np.float64)


def _turned(along, shares, mean, scale):
    """Write ``w p (u - p . u)`` over u."""
    np.subtract(along, mean[:, None], out=along, casting="same_kind")
    np.multiply(along, shares, out=along)
    np.multiply(along, scale[:, None], out=along, casting="same_kind")
