"""Losses of a set of labels, each with its own sigmoid, of a whole last layer without its logits."""

import functools

import numpy as np

from lastlayer._array import as_array, namespace
from lastlayer._row import total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.linear.call import Layer, one_each
from lastlayer.linear.entries import Entries, OfEntries
from lastlayer.linear.gradients import LinearGradients
from lastlayer.linear.streamed import gradients_of, streamed
from lastlayer.loss._indexed import not_negative
from lastlayer.loss.binary import binary_cross_entropy
from lastlayer.loss.focal import binary_focal


@streamed
def linear_multilabel_cross_entropy(
    function,
    features: Float[Array, "*batch width"],
    weight: Float[Array, "labels width"],
    target: Int[Array, "*batch labels"] | Bool[Array, "*batch labels"] | Float[Array, "*batch labels"],
    *,
    bias: Float[Array, " labels"] | None = None,
    pos_weight: float | Float[Array, " labels"] | None = None,
    valid: Bool[Array, "*batch"] | Bool[Array, "*batch labels"] | None = None,
    temperature: float = 1.0,
    memory: int | str = "64MiB",
):
    """Cross-entropy of a last layer's labels, the sum of each row, never holding more logits than ``memory``.

        linear_multilabel_cross_entropy = multilabel_cross_entropy((features @ weight.T + bias) / temperature, target)

    Settings and edges as in `multilabel_cross_entropy`; a single label is a weight of one row. ``valid`` is one per row
    or one per entry: a row that is not valid costs no product. Each logit is made once, and its slope with it, so
    ``memory`` is divided between a tile and what its entries are made of. Streaming, libraries, dtypes and gradients as
    in `linear_cross_entropy`, and `linear_multilabel_cross_entropy_grad` gives NumPy's.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> linear_multilabel_cross_entropy(features, weight, np.array([[1, 0, 1], [0, 0, 1]])).round(4)
    array([2.3024, 2.6006])
    """
    if pos_weight is not None and np.ndim(pos_weight):
        one_each(function, "pos_weight", as_array(pos_weight), "label", as_array(weight)[:, 0])
    loss = functools.partial(binary_cross_entropy, pos_weight=pos_weight)
    layer = {"bias": bias, "temperature": temperature, "memory": memory}
    costs = {} if pos_weight is None else {"yes": pos_weight}
    return _of_labels(function, loss, features, weight, target, valid, costs, **layer)


@streamed
def linear_binary_focal(
    function,
    features: Float[Array, "*batch width"],
    weight: Float[Array, "labels width"],
    target: Int[Array, "*batch labels"] | Bool[Array, "*batch labels"] | Float[Array, "*batch labels"],
    *,
    bias: Float[Array, " labels"] | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    valid: Bool[Array, "*batch"] | Bool[Array, "*batch labels"] | None = None,
    memory: int | str = "64MiB",
):
    """Focal loss of a last layer's labels, the sum of each row, never holding more logits than ``memory``.

        linear_binary_focal = sum_l binary_focal(features @ weight.T + bias, target)_l

    Settings and edges as in `binary_focal`, the rest as in `linear_multilabel_cross_entropy`;
    `linear_binary_focal_grad` gives NumPy's gradients.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> linear_binary_focal(features, weight, np.array([[1, 0, 1], [0, 0, 1]])).round(4)
    array([1.652 , 1.1019])
    """
    not_negative(function, "gamma", gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"{function}: alpha, the weight of the positive class, is between 0 and 1, not {alpha!r}.")
    loss = functools.partial(binary_focal, gamma=gamma, alpha=alpha)
    costs = {} if alpha is None else {"yes": alpha, "no": 1 - alpha}
    return _of_labels(function, loss, features, weight, target, valid, costs, gamma, bias=bias, memory=memory)


linear_multilabel_cross_entropy_grad = gradients_of(linear_multilabel_cross_entropy, LinearGradients)
linear_binary_focal_grad = gradients_of(linear_binary_focal, LinearGradients)


def _of_labels(function, loss, features, weight, target, valid, costs, gamma=0.0, **layer):
    """The work of a loss of single logits; ``valid`` is per row or per entry."""
    features, weight = as_array(features), as_array(weight)
    entries = valid is not None and np.ndim(valid) == features.ndim
    layer = Layer.of(function, features, weight, valid=None if entries else valid, **layer)
    target = as_array(target, like=layer.features)
    valid = valid if valid is None else as_array(valid, like=layer.features)
    for name, array in (("target", target), ("valid", valid if entries else None)):
        if array is not None:
            one_each(function, name, array, "logit", layer.entries)

    def composed(logits):
        keep = valid
        if layer.valid is not None:
            keep = namespace(logits).broadcast_to(layer.valid[..., None], logits.shape)
        losses = loss(logits / layer.temperature, target, valid=keep)
        return total(losses, namespace(losses))

    return OfEntries(layer, composed, Entries(function, target, valid if entries else None, gamma=gamma, **costs))
