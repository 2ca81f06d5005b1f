"""Cross-entropy of a whole last layer: from features and weight, without the logits between them."""

import functools
import math

from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.linear.call import Call
from lastlayer.linear.gradients import LinearGradients
from lastlayer.linear.softmax_loss import OfClasses, Smoothed
from lastlayer.linear.streamed import gradients_of, streamed
from lastlayer.loss.cross_entropy import cross_entropy


@streamed
def linear_cross_entropy(
    function,
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    target: Int[Array, "*batch"],
    *,
    bias: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    class_weight: Float[Array, " classes"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    memory: int | str = "64MiB",
):
    """Cross-entropy of a last layer's logits, one number per row, never holding more of them than ``memory``.

        linear_cross_entropy = cross_entropy(features @ weight.T + bias, target)

    ``weight`` is ``(classes, width)``, as ``torch.nn.Linear`` has it. The settings and edges are those of
    `cross_entropy`: the loss of a confident row is ``log1p(rest)``; a bias of ``-inf`` masks a class; a row that is not
    ``valid`` gives 0 with gradient exactly 0, whatever its features hold, and costs no product. `plan` shows the tiles
    of logits that fit ``memory``; the result is the same bits for one plan. A budget below one tile is refused, naming
    the smallest that works.

    On NumPy arrays and PyTorch tensors in the memory of the CPU the logits are streamed; elsewhere (tracers, other
    devices, other libraries) the formula above runs, logits and all. With PyTorch gradients are made along with the
    loss, for the mean of the rows: a ``backward`` through a mean or a sum of the losses then costs nothing, through
    anything else it sweeps again. What has no ``requires_grad`` costs no product, and without gradients only the loss
    is made. A second derivative goes through the formula. bfloat16 is multiplied as such and summed in float32;
    float16, or bfloat16 with a cap or a temperature, is computed in float32. The loss is float32 then. For NumPy's
    gradients see `linear_cross_entropy_grad`.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> linear_cross_entropy(features, weight, np.array([2, 0])).round(4)
    array([0.5514, 0.3064])
    >>> linear_cross_entropy_grad(features, weight, np.array([2, 0])).features.round(4)
    array([[ 0.    , -0.106 ],
           [-0.1817,  0.1319]])
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{function}: label_smoothing is between 0 and 1, not {label_smoothing!r}.")
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"{function}: z_loss is a finite factor, not below 0; {z_loss!r} came.")
    scaling = {"temperature": temperature, "softcap": softcap}
    layer = {"bias": bias, "class_weight": class_weight, "valid": valid, "memory": memory, **scaling}
    call = Call.of(function, features, weight, target, **layer)
    rule = Smoothed(label_smoothing, z_loss)
    rows = {"target": call.target, "valid": call.valid, "class_weight": call.class_weight}
    return OfClasses(call, functools.partial(cross_entropy, **rows, **scaling, **rule._asdict()), rule)


linear_cross_entropy_grad = gradients_of(linear_cross_entropy, LinearGradients)
