"""Streamed losses under PyTorch's autograd."""

import functools
import sys
from typing import Any

import numpy as np

from lastlayer.linear.gradients import NOTHING, Wanted


def with_gradients(work):
    """The losses of tensors, with a graph where one is asked for; ``work`` is a `streamed.Streamed`."""
    torch: Any = sys.modules["torch"]
    layer = work.layer
    tensors = layer.features, layer.weight, layer.bias
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _function().apply(*tensors, work)
    return torch.from_numpy(layer.losses(work.sweep(None, NOTHING).loss))


@functools.cache
def _function():
    torch: Any = sys.modules["torch"]

    class StreamedLoss(torch.autograd.Function):
        """Forward makes the gradients of the mean; the first backward takes them if its cotangent is constant."""

        @staticmethod
        def forward(ctx, features, weight, bias, work):
            ctx.save_for_backward(features, weight, bias)
            ctx.work = work
            ctx.of_mean = work.sweep(work.cotangents(), _wanted(ctx))
            return torch.from_numpy(work.layer.losses(ctx.of_mean.loss))

        @staticmethod
        def backward(ctx, cotangent):
            tensors = ctx.saved_tensors  # complains where one was written to since, or the graph is gone
            if torch.is_grad_enabled():  # somebody wants to differentiate once more
                return *through_formula(ctx, ctx.work.formula, tensors, cotangent), None
            work, made = ctx.work, ctx.of_mean
            ctx.of_mean = None  # handed out: what a second backward needs is made anew
            rows = work.cotangents(cotangent)
            factor = None if made is None else _factor(rows, work.cotangents(), cotangent.dtype)
            if factor is None:
                made = work.sweep(rows, _wanted(ctx))
            elif factor != 1:
                _scale(made, factor)
            return *work.layer.tensors(made), None

    return StreamedLoss


def _wanted(ctx):
    return Wanted(*ctx.needs_input_grad[:3])


def _factor(rows, mean, dtype):
    """What the cotangents of the mean are multiplied by to give ``rows``, None where nothing does.

    The mean's own came back rounded to ``dtype``.
    """
    if not len(rows):
        return 1.0
    torch: Any = sys.modules["torch"]
    most = np.argmax(mean)
    if (rows * mean[most] != mean * rows[most]).any():
        return None
    return 1.0 if rows[most] == float(torch.tensor(mean[most], dtype=dtype)) else rows[most] / mean[most]


def _scale(made, factor):
    for gradient in made[1:]:
        if gradient is not None:
            gradient *= factor


def through_formula(ctx, formula, tensors, cotangent):
    """The gradients as a graph of their own, made of the logits."""
    torch: Any = sys.modules["torch"]
    wanted = [t for t, need in zip(tensors, ctx.needs_input_grad, strict=False) if need]
    found = iter(torch.autograd.grad(formula(*tensors), wanted, cotangent, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in ctx.needs_input_grad[:3]]
