"""`linear_cross_entropy` under PyTorch's autograd."""

import functools
import sys
from typing import Any

from lastlayer.linear.gradients import NOTHING, Wanted
from lastlayer.linear.softmax_loss import sweep


def with_gradients(call, formula):
    """The losses of a call of tensors, with a graph where one is asked for."""
    torch: Any = sys.modules["torch"]
    tensors = call.features, call.weight, call.bias
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _function().apply(*tensors, call, formula)
    swept = sweep(call.head(False), call.objective(), None, NOTHING)
    return torch.from_numpy(call.losses(swept.loss))


@functools.cache
def _function():
    torch: Any = sys.modules["torch"]

    class LinearCrossEntropy(torch.autograd.Function):
        """Forward makes the gradients of the mean; the first backward takes them if its cotangent is constant."""

        @staticmethod
        def forward(ctx, features, weight, bias, call, formula):
            ctx.save_for_backward(features, weight, bias)
            ctx.call, ctx.formula = call, formula
            ctx.of_mean = sweep(call.head(True), call.objective(), call.cotangents(), _wanted(ctx))
            return torch.from_numpy(call.losses(ctx.of_mean.loss))

        @staticmethod
        def backward(ctx, cotangent):
            tensors = ctx.saved_tensors  # complains where one was written to since, or the graph is gone
            if torch.is_grad_enabled():  # somebody wants to differentiate once more
                return *_through_formula(ctx, tensors, cotangent, torch), None, None
            call, made = ctx.call, ctx.of_mean
            ctx.of_mean = None  # handed out: what a second backward needs is made anew
            rows = call.cotangents(cotangent)
            if made is None or (rows != rows[:1]).any():
                made = sweep(call.head(True), call.objective(), rows, _wanted(ctx))
            elif len(rows):
                _scale(made, float(rows[0]), len(rows), cotangent.dtype)
            return *call.tensors(made), None, None

    return LinearCrossEntropy


def _wanted(ctx):
    return Wanted(*ctx.needs_input_grad[:3])


def _scale(made, cotangent, rows, dtype):
    """Gradients of the mean as those of ``cotangent`` times the sum; the mean's own cotangent was rounded to dtype."""
    torch: Any = sys.modules["torch"]
    if cotangent == float(torch.tensor(1 / rows, dtype=dtype)):
        return
    for gradient in made[1:]:
        if gradient is not None:
            gradient *= cotangent * rows


def _through_formula(ctx, tensors, cotangent, torch):
    """The gradients as a graph of their own, made of the logits."""
    wanted = [t for t, need in zip(tensors, ctx.needs_input_grad, strict=False) if need]
    found = iter(torch.autograd.grad(ctx.formula(ctx.call, *tensors), wanted, cotangent, create_graph=True))
    return [next(found) if need else None for need in ctx.needs_input_grad[:3]]
