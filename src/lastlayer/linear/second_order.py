"""The second derivative of a last layer's cross-entropy times a direction, streamed."""

from typing import NamedTuple

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import shape
from lastlayer._typing import Array, Float, Int
from lastlayer.linear.call import Call
from lastlayer.linear.gradients import Gradients, Wanted
from lastlayer.linear.tile import head_slopes, over_rows


class HessianProduct(NamedTuple):
    """The product, in the shapes of weight, bias and features; None where there is no such direction."""

    weight: np.ndarray
    bias: np.ndarray | None
    features: np.ndarray | None


def linear_hessian_product(
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    direction: Float[Array, "classes width"],
    *,
    bias: Float[Array, " classes"] | None = None,
    bias_direction: Float[Array, " classes"] | None = None,
    features_direction: Float[Array, "*batch width"] | None = None,
    target: Int[Array, "*batch"] | None = None,
    row_weight: Float[Array, "*batch"] | None = None,
    memory: int | str = "64MiB",
) -> HessianProduct:
    """Hessian of ``sum(row_weight * linear_cross_entropy)`` times a direction; NumPy arrays.

        u_i = direction f_i + weight d_i + bias_direction,   t_i = w_i p_i * (u_i - p_i . u_i),   s_i = w_i (p_i - y_i)
        weight:    sum_i t_i f_i^T + s_i d_i^T
        bias:      sum_i t_i
        features:  weight^T t_i + direction^T s_i

    p being the softmax of row i, y one at its ``target``, d its ``features_direction``. In weight and bias alone the
    logits are linear: no target enters, and the Hessian is the Gauss-Newton matrix. With a ``features_direction`` the
    terms in s make it the Hessian; without a ``target`` they are left out, which is the Gauss-Newton product.
    ``bias_direction`` goes with a ``bias``, and is 0 by default; ``row_weight`` is 1. Two tiles are there at a time (or
    three), each of its share of the ``memory``; neither the logits nor their directions ever are. An empty row adds
    nothing. A budget below one tile is refused, naming the smallest that works.

    >>> features, weight = np.array([[1.0, 2.0]]), np.zeros((2, 2))
    >>> linear_hessian_product(features, weight, np.array([[1.0, 0.0], [0.0, 0.0]])).weight
    array([[ 0.25,  0.5 ],
           [-0.25, -0.5 ]])
    """
    function = "linear_hessian_product"
    features, weight, direction = (to_numpy(x) for x in (features, weight, direction))
    _alike(function, "direction", direction, "weight", weight)
    if bias is None and bias_direction is not None:
        raise ValueError(f"{function}: bias_direction goes with a bias; there is none.")
    if features_direction is None and target is not None:
        raise ValueError(f"{function}: a target enters with a features_direction; there is none.")
    turned = None if bias is None else np.zeros(len(weight)) if bias_direction is None else bias_direction
    index = np.zeros(features.shape[:-1], np.int64) if target is None else target
    call = Call.of(function, features, weight, index, bias=bias, memory=memory)
    direction, turned = (None if v is None else np.asarray(v, call.dtype) for v in (direction, turned))
    calls = [call, Call.of(function, features, direction, index, bias=turned, memory=memory)]
    if features_direction is not None:
        moved = np.asarray(to_numpy(features_direction), call.dtype)
        _alike(function, "features_direction", moved, "features", features)
        calls.append(Call.of(function, moved, weight, index, memory=memory))
    scale = np.ones(index.size) if row_weight is None else call.cotangents(row_weight)
    heads = [each.head(True, 2, len(calls)) for each in calls]
    wanted = Wanted(features_direction is not None, True, bias is not None)
    made = _product(heads, scale, wanted, None if target is None else call.targets())
    sums = None if bias is None else made.bias.astype(made.weight.dtype)
    return HessianProduct(made.weight, sums, None if not wanted.features else made.features.reshape(features.shape))


def _alike(function, name, array, like, other):
    if array.shape != other.shape:
        raise ValueError(f"{function}: {name} is as {like}, {shape(other)}; it is {shape(array)}.")


def _product(heads, scale, wanted, target):
    """The sums over the tiles; tiles of whole rows are made once."""
    head, *others = heads
    out, first, rooms = Gradients(head, wanted), head.room(), [other.room() for other in others]
    nowhere = np.zeros(head.plan.rows, np.int64)
    with np.errstate(all="ignore"):  # written for limits
        for rows in head.groups():
            parts, tile = head.parts(rows, first, nowhere)
            if tile is not None:
                _shared(tile, parts)
                pairs = [(block, tile, along) for block, along in _along(others, rows, rooms)]
                mean = _means(tile, pairs[0][2])
            else:
                mean = sum(_means(tile, along) for _, tile, along in _pairs(heads, rows, parts, first, rooms))
                pairs = _pairs(heads, rows, parts, first, rooms)
            for block, tile, along in pairs:
                over_rows(_turned, along, tile, mean, scale[rows])
                out.add(rows, block, along)
                if target is not None:
                    _add_bent(out, others, (rows, block, tile), scale, target)
    return out


def _along(others, rows, rooms):
    """Block by block, the change of the logits of some rows along the direction."""
    tiles = (other.tiles(rows, room) for other, room in zip(others, rooms, strict=True))
    for (block, along), *more in zip(*tiles, strict=True):
        for _, other in more:
            np.add(along, other, out=along)
        yield block, along


def _pairs(heads, rows, parts, first, rooms):
    """Block by block, the probabilities of some rows and the change of their logits."""
    head, *others = heads
    for (block, tile), (_, along) in zip(head.tiles(rows, first), _along(others, rows, rooms), strict=True):
        _shared(tile, parts)
        yield block, tile, along


def _add_bent(out, others, where, scale, target):
    """Add what comes of features and weight being multiplied: the slopes of the loss times both directions."""
    (rows, block, tile), (turned, moved) = where, others
    inside = np.flatnonzero((target[rows] >= block.start) & (target[rows] < block.stop))
    tile[inside, target[rows][inside] - block.start] -= 1
    np.multiply(tile, scale[rows][:, None], out=tile, casting="same_kind")
    turned.products.rows(tile, turned.weight[block], out.features[rows], False)
    turned.products.columns(tile, moved.features[rows], out.weight[block], False)


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
