"""Cross-entropy of a whole last layer: from features and weight, without the logits between them."""

from typing import NamedTuple

import numpy as np

from lastlayer._array import is_torch, to_numpy, together
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.linear.autograd import with_gradients
from lastlayer.linear.call import Call, concrete
from lastlayer.linear.gradients import NOTHING, Wanted
from lastlayer.linear.softmax_loss import sweep
from lastlayer.loss.cross_entropy import cross_entropy


class LinearGradients(NamedTuple):
    """The loss of each row, and the gradients to what made it."""

    loss: np.ndarray
    features: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None


def linear_cross_entropy(
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
) -> Float[Array, "*batch"]:
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
    """
    settings = {
        "label_smoothing": label_smoothing,
        "class_weight": class_weight,
        "temperature": temperature,
        "softcap": softcap,
        "z_loss": z_loss,
    }
    call = Call.of("linear_cross_entropy", features, weight, target, bias, valid, settings, memory)
    if not concrete(call.features, call.weight, call.bias):
        return formula(call, call.features, call.weight, call.bias)
    if is_torch(call.features):
        return with_gradients(call, formula)
    swept = sweep(call.head(False), call.objective(), None, NOTHING)
    return call.losses(swept.loss)


def linear_cross_entropy_grad(
    features: Float[Array, "*batch width"],
    weight: Float[Array, "classes width"],
    target: Int[Array, "*batch"],
    cotangent: Float[Array, "*batch"] | None = None,
    *,
    bias: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    class_weight: Float[Array, " classes"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    memory: int | str = "64MiB",
) -> LinearGradients:
    """`linear_cross_entropy` of NumPy arrays with its gradients, from one sweep over the logits.

        features = dlogits @ weight,   weight = dlogits.T @ features,   bias = dlogits.sum(rows)

    where dlogits are the slopes of ``sum(cotangent * loss)``; without ``cotangent`` those of the mean over the rows
    that are ``valid``. Gradients have the dtype of what they belong to; ``bias`` is None where there is none.

    >>> features, weight = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> loss, *gradients = linear_cross_entropy_grad(features, weight, np.array([2, 0]))
    >>> gradients[0].round(4)
    array([[ 0.    , -0.106 ],
           [-0.1817,  0.1319]])
    """
    settings = {
        "label_smoothing": label_smoothing,
        "class_weight": class_weight,
        "temperature": temperature,
        "softcap": softcap,
        "z_loss": z_loss,
    }
    function = "linear_cross_entropy_grad"
    features, weight = to_numpy(features), to_numpy(weight)
    call = Call.of(function, features, weight, target, bias, valid, settings, memory)
    swept = sweep(call.head(True), call.objective(), call.cotangents(cotangent), Wanted(True, True, bias is not None))
    return LinearGradients(call.losses(swept.loss), *call.gradients(swept))


def formula(call, features, weight, bias):
    """The losses of `linear_cross_entropy` with all the logits, in any array library."""
    given = [x for x in (features, weight, bias) if x is not None]
    (x, w, *b), xp = together(*given)
    if call.valid is not None:
        x = xp.where(call.valid[..., None], x, xp.zeros_like(x))
    logits = xp.matmul(x, w.T)
    logits = logits + b[0] if b else logits
    return cross_entropy(logits, call.target, valid=call.valid, **call.settings)
