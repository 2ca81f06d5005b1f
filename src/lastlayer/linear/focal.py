"""Focal losses of a whole last layer, without its logits."""

import functools

from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.linear.call import Call
from lastlayer.linear.gradients import LinearGradients
from lastlayer.linear.softmax_loss import Focal, OfClasses
from lastlayer.linear.streamed import gradients_of, streamed
from lastlayer.loss._indexed import not_negative
from lastlayer.loss.focal import focal


@streamed
def linear_focal(
    function,
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    target: Int[Array, "*batch"],
    *,
    bias: Float[Array, " classes"] | None = None,
    gamma: float = 2.0,
    class_weight: Float[Array, " classes"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
    memory: int | str = "64MiB",
):
    """Focal loss of a last layer's logits, one number per row, never holding more of them than ``memory``.

        linear_focal = focal(features @ weight.T + bias, target)

    Settings and edges as in `focal`; streaming, libraries, dtypes and gradients as in `linear_cross_entropy`, and
    `linear_focal_grad` gives NumPy's.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> linear_focal(features, weight, np.array([2, 0])).round(4)
    array([0.0991, 0.0213])
    """
    not_negative(function, "gamma", gamma)
    layer = {"bias": bias, "class_weight": class_weight, "valid": valid, "memory": memory}
    call = Call.of(function, features, weight, target, **layer)
    rows = {"target": call.target, "valid": call.valid, "class_weight": call.class_weight}
    return OfClasses(call, functools.partial(focal, **rows, gamma=gamma), Focal(gamma))


linear_focal_grad = gradients_of(linear_focal, LinearGradients)
