"""What every streamed loss is to its caller: the losses of the rows, and their gradients, in the library that came."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from lastlayer._array import is_torch, to_numpy
from lastlayer._typing import Array
from lastlayer.linear.autograd import with_gradients
from lastlayer.linear.call import Layer, concrete
from lastlayer.linear.gradients import NOTHING, LinearGradients, PairGradients, Swept, Wanted

P = ParamSpec("P")
G = TypeVar("G", LinearGradients, PairGradients)
GRADIENTS = """`{name}` of NumPy arrays with its gradients, from the same sweep, as `{result}`.

    Gradients are those of ``sum(cotangent * loss)``, without ``cotangent`` of the mean over the rows that are
    ``valid``, and have the dtype of what they belong to.
    """


@dataclass(frozen=True)
class Streamed(ABC):
    """A loss of a layer's rows. ``composed`` makes it of all the logits, in any array library."""

    layer: Layer
    composed: Callable

    @abstractmethod
    def sweep(self, cotangent, wanted: Wanted) -> Swept:
        """The losses and the gradients that are wanted, for the cotangent of each row; None where none are."""

    def formula(self, features, weight, bias):
        """The losses with all the logits there, for arrays that cannot be swept and for second derivatives."""
        return self.composed(self.layer.logits(features, weight, bias))

    def cotangents(self, cotangent=None):
        """What the loss of each row that is swept is multiplied by before the sum; by default, the mean's."""
        return self.layer.cotangents(cotangent)

    def losses(self):
        """The losses of the rows."""
        layer = self.layer
        if not concrete(layer.features, layer.weight, layer.bias):
            return self.formula(layer.features, layer.weight, layer.bias)
        if is_torch(layer.features):
            return with_gradients(self)
        return layer.losses(self.sweep(None, NOTHING).loss)


def streamed(work: Callable[Concatenate[str, P], Streamed]) -> Callable[P, Array]:
    """The losses of the work that a function describes, which is told its own name."""

    @functools.wraps(work)
    def losses(*args: P.args, **kwargs: P.kwargs) -> Array:
        return work(work.__name__, *args, **kwargs).losses()

    _, *parameters = inspect.signature(work).parameters.values()
    return _signed(losses, parameters)


def gradients_of(losses: Callable, result: type[G]) -> Callable[..., G]:
    """The partner of a streamed loss that gives NumPy gradients too; ``cotangent`` comes after its arrays."""
    name = f"{losses.__name__}_grad"
    parameters = list(inspect.signature(losses).parameters.values())
    arrays = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    cotangent = inspect.Parameter("cotangent", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)

    def gradients(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        given = {k: to_numpy(v) if hasattr(v, "dtype") else v for k, v in given.items()}
        slopes = given.pop("cotangent", None)
        work: Streamed = losses.__wrapped__(name, **given)
        layer, fields = work.layer, result._fields
        wanted = Wanted(True, True, "bias" in fields and layer.bias is not None)
        swept = work.sweep(work.cotangents(slopes), wanted)
        return result(layer.losses(swept.loss), *layer.gradients(swept)[: len(fields) - 1])

    gradients.__name__ = gradients.__qualname__ = name
    gradients.__module__ = losses.__module__
    gradients.__doc__ = GRADIENTS.format(name=losses.__name__, result=result.__name__)
    signature = inspect.Signature([*parameters[:arrays], cotangent, *parameters[arrays:]])
    return _signed(gradients, signature.parameters.values())


def _signed(function, parameters):
    """``function`` with a signature of its own."""
    function.__signature__ = inspect.Signature(parameters)
    return function
