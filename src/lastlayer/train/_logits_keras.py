"""Keras 3 and 2: what a final softmax or sigmoid takes; a linear end is what the compiled loss takes it for."""

import sys
from contextlib import contextmanager
from typing import Any

from lastlayer.outputs import Task
from lastlayer.train._logits_reading import Reading, unusable

_BATCH = 256
_ACTIVATIONS: dict[str, Task] = {"softmax": "multiclass", "log_softmax": "multiclass", "sigmoid": "binary"}
_HINGES: dict[str, Task] = {"hinge": "binary", "squaredhinge": "binary", "categoricalhinge": "multiclass"}


def reading(model, asked):
    if not callable(model) or not hasattr(model, "layers"):
        raise unusable(model, "is no Keras model", "give the keras.Model")
    name = type(model).__name__
    if not _layered(model):
        return Reading(lambda X: _called(model, X), f"{name}.call", batch=_BATCH)
    if len(model.outputs) != 1:
        raise unusable(
            model, f"has {len(model.outputs)} outputs", "choose: keras.Model(model.inputs, model.outputs[0])"
        )
    last = model.layers[-1]
    while _layered(last):
        last = last.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", None)
    if activation in _ACTIVATIONS:
        source = f"{name} before the {activation} of {last.name}"
        task = _ACTIVATIONS[activation]
        return Reading(lambda X: _called(model, X), source, "logits", task, batch=_BATCH, during=lambda: _linear(last))
    if type(last).__name__ == "Softmax":
        return _before_softmax(model, last, name)
    kind, task = _compiled(model)
    return Reading(lambda X: _called(model, X), f"{name}, {last.name}", kind, task, batch=_BATCH)


def _before_softmax(model, last, name):
    """A layer of its own: the model up to its input, or the probabilities where it is hidden in a model within."""
    if last is not model.layers[-1]:
        return Reading(lambda X: _called(model, X), f"{name}, {last.name}", "probs", "multiclass", batch=_BATCH)
    keras = sys.modules[type(last).__module__.partition(".")[0]]
    inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    before = keras.Model(inputs, last.input)
    return Reading(lambda X: _called(before, X), f"{name} before {last.name}", "logits", "multiclass", batch=_BATCH)


def _layered(model):
    """Whether its last layer is what it puts out; the call of a subclass may do anything."""
    return type(model).__name__ in ("Sequential", "Functional", "Model") and hasattr(model, "layers")


def _called(model, X):
    return model(list(X) if isinstance(X, tuple) else X, training=False)


@contextmanager
def _linear(layer):
    """The layer without its activation. Not `predict`: that runs a compiled copy, with the activation in it."""
    activation = layer.activation
    try:
        layer.activation = sys.modules[type(layer).__module__.partition(".")[0]].activations.linear
        yield
    finally:
        layer.activation = activation


def _compiled(model):
    """Kind and task of a linear end: logits where the loss was told ``from_logits=True``, a margin of a hinge."""
    loss: Any = getattr(model, "loss", None)
    name = (loss if isinstance(loss, str) else type(loss).__name__).replace("_", "").lower()
    if name in _HINGES:
        return "margin", _HINGES[name]
    if isinstance(loss, str) or not hasattr(loss, "get_config") or not loss.get_config().get("from_logits"):
        return None, None
    return "logits", "binary" if name.startswith("binary") else "multiclass"
