"""torch.nn.Module: called in evaluation mode, without gradients; before a final Softmax, LogSoftmax or Sigmoid.

Such an end is recognised by the type of the last module of an ``nn.Sequential``. What any other module puts out, its
code does not say.
"""

import sys
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

from lastlayer._array import is_torch
from lastlayer.outputs import Task
from lastlayer.train._logits_reading import Reading, applied

BATCH = 256
_ENDS: dict[str, Task] = {"Softmax": "multiclass", "LogSoftmax": "multiclass", "Sigmoid": "binary"}


def reading(model, asked):
    plain = _plain(model)
    last, name = _last(plain), type(plain).__name__

    def during():
        return evaluating(model, asked.device)

    end = type(last).__name__ if type(last).__module__.startswith("torch.") else None
    if end not in _ENDS:
        return Reading(lambda X: called(model, X), f"{name}.forward", batch=BATCH, during=during)
    if end != "Sigmoid" and last.dim not in (1, -1, None):
        raise ValueError(f"logits_of: the {end} that ends this {name} is over dim={last.dim}; classes are dim=1.")

    def before(X):
        caught = []
        with last.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0])):
            called(plain, X)
        return caught[-1]

    return Reading(before, f"{name} before its {end}", "logits", _ENDS[end], batch=BATCH, during=during)


def _plain(model):
    """The module within torch.compile, DataParallel and DistributedDataParallel, which run no hooks of its parts."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            model = model.module
        else:
            return model


def _last(model):
    while isinstance(model, sys.modules["torch"].nn.Sequential) and len(model):
        model = model[-1]
    return model


def called(model, X):
    """What the module gives for rows, which become tensors where its parameters are, of their floating dtype."""
    torch = sys.modules["torch"]
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else None
    dtype = next((p.dtype for p in parameters if p.dtype.is_floating_point), None)

    def tensor(x):
        if x is None:
            return None
        x = x if is_torch(x) else torch.tensor(np.asarray(x))  # a copy: memory maps cannot be written to
        return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

    if isinstance(X, Mapping):
        return applied(model, {name: tensor(x) for name, x in X.items()})
    return applied(model, tuple(map(tensor, X)) if isinstance(X, tuple) else tensor(X))


@contextmanager
def evaluating(model, device):
    """The module on ``device``, in evaluation mode and without gradients; each part as it was afterwards."""
    torch = sys.modules["torch"]
    training = [(part, part.training) for part in model.modules()]
    home = next((p.device for p in model.parameters()), None) if device is not None else None
    try:
        model.eval()
        if home is not None:
            model.to(device)
        with torch.no_grad():
            yield
    finally:
        if home is not None:
            model.to(home)
        for part, was in training:
            part.training = was
