"""ONNX Runtime sessions: what a final Softmax or Sigmoid takes, where the package ``onnx`` is there to find it.

The graph is walked back from the output over nodes that only pass on, as converters write them, to a node that makes
probabilities. A second session then gives what that node takes: its input, or for the classifiers of ONNX-ML their
scores without the ``post_transform``. Sigmoids that a Normalizer divides by their sum become ``log_sigmoid``.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lastlayer.train._logits_reading import Reading, chosen, column
from lastlayer.transform import log_sigmoid

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


class _End(NamedTuple):
    """Where a graph makes probabilities: the tensor to read instead, and what it means."""

    tensor: str
    before: str
    task: Any
    positive: bool = False  # a column per class, of which the second is the logit of two
    normalised: bool = False  # its sigmoids are divided by their sum


def reading(session, asked):
    outputs = {out.name: out for out in session.get_outputs() if out.type not in ("tensor(int64)", "tensor(string)")}
    name, kind = chosen(outputs, asked, "the session")
    rows = session.get_inputs()[0].shape[0]
    batch = rows if isinstance(rows, int) else 1024
    model = _model_of(session)
    end, labels = (None, None) if model is None else _walked(model.graph, name)
    if end is None:
        source = f"ONNX output {name!r}"
        return Reading(lambda X: _table(_run(session, name, X)), source, kind, None, labels, batch=batch)
    before = _putting_out(model, end.tensor, session.get_providers())

    def scores(X):
        found = _run(before, end.tensor, X)
        found = column(found, 1) if end.positive else found
        return log_sigmoid(found) if end.normalised else found

    source = f"ONNX output {name!r} before its {end.before}"
    source = f"log_sigmoid of {source} (one-versus-rest)" if end.normalised else source
    return Reading(scores, source, "logits", end.task, labels, batch=batch)


def _model_of(session):
    """The model that the session runs; None without ``onnx``, and where its weights lie in other files."""
    given = session._model_bytes or session._model_path
    if given is None or importlib.util.find_spec("onnx") is None:
        return None
    onnx = importlib.import_module("onnx")

    model = onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given, load_external_data=False)
    return None if any(each.external_data for each in model.graph.initializer) else model


def _walked(graph, tensor):
    """The node that makes the probabilities behind ``tensor``, if one is known, and the labels found on the way."""
    makers = {out: node for node in graph.node for out in node.output}
    labels, normalised = None, False
    while (node := makers.get(tensor)) is not None:
        if node.op_type == "ZipMap":
            labels = _labels(node)
        elif node.op_type == "Normalizer" and _attribute(node, "norm", "MAX") == "L1":
            normalised = True
        elif node.op_type not in ("Identity", "Cast"):
            break
        tensor = node.input[0]
    if node is None:
        return None, labels
    if node.op_type in ("LinearClassifier", "TreeEnsembleClassifier"):
        labels = _labels(node)
        return _classifier(node, len(labels), normalised), labels
    return _activation(node, makers, normalised), labels


def _activation(node, makers, normalised):
    if node.op_type in ("Softmax", "LogSoftmax") and _attribute(node, "axis", -1) in (1, -1):
        return _End(node.input[0], node.op_type, "multiclass")
    if node.op_type == "Concat" and len(node.input) == 2:  # of 1 - p and p
        other, node = (makers.get(name) for name in node.input)
        if node is None or other is None or other.op_type != "Sub" or other.input[1] != node.output[0]:
            return None
    if node.op_type != "Sigmoid":
        return None
    return _End(node.input[0], "Sigmoid", "multiclass" if normalised else "binary", normalised=normalised)


def _classifier(node, classes, normalised):
    """A classifier of ONNX-ML, whose ``post_transform`` is taken out of ``node``."""
    found = next((each for each in node.attribute if each.name == "post_transform"), None)
    if found is None:
        return None
    what = found.s.decode()
    before, tensor = f"{node.op_type}'s {what}", node.output[1]
    if what == "LOGISTIC" and classes == 2:
        end = _End(tensor, before, "binary", positive=True)
    elif what == "LOGISTIC" and normalised:
        end = _End(tensor, before, "multiclass", normalised=True)
    elif what == "SOFTMAX" and classes > 2:
        end = _End(tensor, before, "multiclass")
    else:
        return None
    found.s = b"NONE"
    return end


def _attribute(node, name, default):
    onnx = importlib.import_module("onnx")

    found = next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
    return found.decode() if isinstance(found, bytes) else found


def _labels(node):
    names = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
    found = next((values for name in names if (values := _attribute(node, name, None))), ())
    return np.array([each.decode() if isinstance(each, bytes) else each for each in found])


def _putting_out(model, tensor, providers):
    """A session of the same graph that gives ``tensor``."""
    onnx, runtime = importlib.import_module("onnx"), sys.modules["onnxruntime"]

    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return runtime.InferenceSession(model.SerializeToString(), providers=providers)


def _run(session, name, X):
    inputs = session.get_inputs()
    if isinstance(X, Mapping):
        by_name = X
    elif isinstance(X, tuple):
        by_name = {each.name: x for each, x in zip(inputs, X, strict=True)}
    elif hasattr(X, "columns") and len(inputs) > 1:
        by_name = {each.name: np.asarray(X[each.name]).reshape(-1, 1) for each in inputs}
    else:
        by_name = {inputs[0].name: X}
    wanted = {each.name: _DTYPES.get(each.type) for each in inputs}
    return session.run([name], {key: np.asarray(x, dtype=wanted.get(key)) for key, x in by_name.items()})[0]


def _table(found):
    """A sequence of maps, which ZipMap makes of rows, as the rows."""
    return np.array([list(row.values()) for row in found]) if isinstance(found, list) else found
