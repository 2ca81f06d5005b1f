"""Kernels under PyTorch's autograd: tensors on the CPU share their memory with NumPy, so nothing is copied.

The slope is the kernel that the table names; a second derivative goes through the formula, which has all of them.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import is_torch, readable, to_numpy
from lastlayer.kernels import resolve


class Call(NamedTuple):
    """A function of logits alone: what else it was given is held."""

    formula: Callable
    backward: str
    others: tuple
    settings: dict
    kept: list  # what the kernel left for its slope

    def by_formula(self, logits):
        return self.formula(logits, *self.others, **self.settings)

    def pullback(self, gradient, logits):
        """What comes back to ``logits``, by the formula."""
        return sys.modules["torch"].func.vjp(self.by_formula, logits)[1](gradient)[0]

    def slope(self, gradient, logits):
        """The same by the kernel."""
        others, settings = _arrays(self.others, self.settings)
        return _tensor(resolve(self.backward)(_array(gradient), _array(logits), *others, **settings, kept=self.kept))


def concrete(tensor):
    """Whether ``tensor`` is plain memory: no transform maps or differentiates it forward, no mode looks on."""
    torch = sys.modules["torch"]
    return not (
        tensor.layout is not torch.strided
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch.jit.is_tracing()
        or torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None
    )


def apply(run, backward, formula, logits, others, settings) -> Any:
    """``run`` on the memory of ``logits``, recorded for `backward` where a slope will be asked for."""
    torch = sys.modules["torch"]
    learns = torch.is_grad_enabled() and logits.requires_grad
    tensors = [value for value in (*others, *settings.values()) if is_torch(value)]
    if not all(readable(t) and concrete(t) and not t.requires_grad for t in tensors):
        return NotImplemented
    out = settings.get("out")
    if out is not None and learns:  # written in place: autograd records the formula's writing
        return NotImplemented
    arrays, keywords = _arrays(others, settings)
    kept = []
    values = run(_array(logits), *arrays, **keywords, kept=kept if learns else None)
    if values is NotImplemented:
        return NotImplemented
    if out is not None:
        return out
    if not learns:
        return _tensor(values)
    return _recorded().apply(logits, Call(formula, backward, others, settings, kept), [_tensor(values)])


def _array(value):
    """A tensor as an array of its memory, of bfloat16 as its bits; anything else as it is."""
    torch = sys.modules["torch"]
    if is_torch(value) and value.dtype == torch.bfloat16:
        return value.detach().view(torch.int16).numpy().view(np.uint16)
    return value.numpy(force=True) if is_torch(value) else value


def _tensor(array):
    torch = sys.modules["torch"]
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.asarray(array))


def _arrays(others, settings):
    """What a function was given beside its logits; ``out`` alone has their dtype, and is written to."""
    keywords = {name: _array(value) if name == "out" else _plain(value) for name, value in settings.items()}
    return [_plain(value) for value in others], keywords


def _plain(value):
    return to_numpy(value) if is_torch(value) else value


@functools.cache
def _recorded():
    torch = sys.modules["torch"]

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, gradient, logits, call):
            ctx.save_for_backward(gradient, logits)
            ctx.call = call
            return call.slope(gradient, logits)

        @staticmethod
        def backward(ctx, *gradients):
            _, pull = torch.func.vjp(ctx.call.pullback, *ctx.saved_tensors)
            return *pull(*gradients), None

    class Value(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, call, values):
            ctx.save_for_backward(logits)
            ctx.call = call
            return values[0]

        @staticmethod
        def backward(ctx, *gradients):
            return Slope.apply(*gradients, *ctx.saved_tensors, ctx.call), None, None

    return Value
