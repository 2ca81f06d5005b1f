"""A call of a streamed head, checked: what came, as the rows and arrays that are swept."""

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lastlayer._array import as_array, dtype_name, floating, is_torch, namespace, readable, to_numpy
from lastlayer._check import positive, shape
from lastlayer.linear.head import Head
from lastlayer.linear.plan import planned
from lastlayer.linear.products import NumpyProducts, TorchProducts
from lastlayer.linear.softmax_loss import Objective

PLAIN = {"label_smoothing": 0.0, "class_weight": None, "temperature": 1.0, "softcap": None, "z_loss": 0.0}


@dataclass(frozen=True)
class Call:
    """Arguments whose shapes agree; ``settings`` are those of `cross_entropy`."""

    function: str
    features: Any
    weight: Any
    target: Any
    bias: Any
    valid: Any
    settings: dict
    memory: int | str

    @classmethod
    def of(cls, function, features, weight, target, bias, valid, settings, memory):
        """The call, or a sentence on what does not fit."""
        features = _native(as_array(features))
        weight = _native(as_array(weight, like=features))
        _check_head(function, features, weight)
        target, rows = as_array(target, like=features), features[..., 0]
        if not dtype_name(target).startswith(("int", "uint")):
            raise TypeError(f"{function}: target is the index of a class, an integer, not {dtype_name(target)}.")
        _one_each(function, "target", target, "row of features", rows)
        if bias is not None:
            bias = _native(as_array(bias, like=features))
            _one_each(function, "bias", bias, "class", weight[:, 0])
        if valid is not None:
            valid = as_array(valid, like=features)
            _one_each(function, "valid", valid, "row of features", rows)
            valid = namespace(valid).astype(valid, namespace(valid).bool)
        class_weight = settings["class_weight"]
        if class_weight is not None:
            settings = {**settings, "class_weight": as_array(class_weight, like=features)}
            _one_each(function, "class_weight", settings["class_weight"], "class", weight[:, 0])
        _check_settings(function, settings)
        return cls(function, features, weight, target, bias, valid, settings, memory)

    @cached_property
    def dtype(self):
        """The dtype that the logits are made in."""
        given = [x for x in (self.features, self.weight, self.bias) if x is not None]
        names = {dtype_name(x) for x in given}
        plain = self.settings["softcap"] is None and self.settings["temperature"] == 1
        if names == {"bfloat16"} and plain and is_torch(self.features):
            return "bfloat16"
        name = str(np.result_type(*(np.dtype(dtype_name(floating(x[:0]))) for x in given)))
        return name if name in ("float32", "float64") else "float64"

    @cached_property
    def kept(self):
        """The rows that count, as indices; None for all of them."""
        keep = np.ones(self.target.shape, bool) if self.valid is None else to_numpy(self.valid)
        keep = keep.reshape(-1)
        target = to_numpy(self.target).reshape(-1)
        classes = self.weight.shape[0]
        outside = keep & ((target < 0) | (target >= classes))
        if outside.any():
            row = int(np.argmax(outside))
            hint = " Ignored rows are said aloud: valid=target != -100." if target[row] == -100 else ""
            raise ValueError(
                f"{self.function}: target {target[row]} of row {row} is not one of the {classes} classes of weight "
                f"{shape(self.weight)}.{hint}"
            )
        if self.settings["class_weight"] is not None:
            keep = keep & (self._class_weights()[np.where(keep, target, 0)] != 0)
        return None if keep.all() else np.flatnonzero(keep)

    def head(self, gradients, sweeps=2, share=1):
        """The layer, over the rows that count, with one part in ``share`` of the budget."""
        rows = math.prod(self.target.shape) if self.kept is None else len(self.kept)
        classes, width = self.weight.shape
        plan = planned(self.function, rows, width, classes, self.dtype, self.memory, gradients, sweeps, share)
        features = self._swept(self.features.reshape(-1, width))
        features = features if self.kept is None else features[self.kept]
        softcap, temperature = self.settings["softcap"], self.settings["temperature"]
        products = (TorchProducts if is_torch(self.features) else NumpyProducts)(self.dtype)
        bias = None if self.bias is None else self._swept(self.bias)
        return Head(features, self._swept(self.weight), bias, softcap, temperature, products, plan)

    def objective(self):
        """The loss of the rows that count."""
        target = self.of_rows(to_numpy(self.target)).astype(np.int64)
        weighted = self.settings["class_weight"] is not None
        scale = self._class_weights()[target] if weighted else np.ones(len(target))
        return Objective(target, scale, self.settings["label_smoothing"], self.settings["z_loss"])

    def of_rows(self, array):
        """One number per row, of the rows that count."""
        array = array.reshape(-1)
        return array if self.kept is None else array[self.kept]

    def cotangents(self, cotangent=None):
        """What each row's loss is multiplied by before the sum; without ``cotangent``, the mean's."""
        if cotangent is None:
            rows = math.prod(self.target.shape) if self.kept is None else len(self.kept)
            return np.full(rows, 1 / max(rows, 1))
        cotangent = to_numpy(cotangent)
        _one_each(self.function, "cotangent", cotangent, "row of features", self.target)
        return self.of_rows(cotangent).astype(np.float64)

    def losses(self, loss):
        """The losses of the rows that count, among the others, which are 0."""
        loss = loss.astype("float32" if self.dtype == "bfloat16" else self.dtype)
        if self.kept is not None:
            found, loss = loss, np.zeros(math.prod(self.target.shape), loss.dtype)
            loss[self.kept] = found
        return loss.reshape(tuple(self.target.shape))

    def gradients(self, swept) -> list[Any]:
        """NumPy gradients, each in the shape and dtype of its argument."""
        features = self._spread(swept.features, np.zeros)
        of = (self.features, features), (self.weight, swept.weight), (self.bias, swept.bias)
        return [None if x is None or g is None else g.reshape(x.shape).astype(_float(x), copy=False) for x, g in of]

    def tensors(self, swept):
        """PyTorch gradients, each in the shape and dtype of its argument."""
        torch: Any = sys.modules["torch"]
        made = [None if g is None else torch.as_tensor(g) for g in (swept.features, swept.weight, swept.bias)]
        made[0] = self._spread(made[0], lambda s, dtype: torch.zeros(s, dtype=dtype))
        of = zip((self.features, self.weight, self.bias), made, strict=True)
        return [None if g is None else g.reshape(x.shape).to(x.dtype) for x, g in of]

    def _spread(self, gradient, zeros):
        if gradient is None or self.kept is None:
            return gradient
        whole = zeros((math.prod(self.target.shape), gradient.shape[1]), dtype=gradient.dtype)
        whole[self.kept] = gradient
        return whole

    def _class_weights(self):
        weight = to_numpy(self.settings["class_weight"]).astype(np.float64)
        outside = ~((weight >= 0) & (weight < np.inf))
        if outside.any():
            raise ValueError(
                f"{self.function}: class weights are finite and not below 0; one is {weight[outside][0]:g}."
            )
        return weight

    def _swept(self, array):
        """An argument in the dtype of the logits, rows one after another."""
        if is_torch(array):
            return array.detach().to(getattr(sys.modules["torch"], self.dtype)).contiguous()
        return np.ascontiguousarray(to_numpy(array), dtype=self.dtype)


def concrete(*arrays):
    """Whether all the arrays are here to be read: NumPy's, or PyTorch's in the memory of the CPU, untraced."""
    return all(readable(x) for x in arrays if x is not None)


def _native(array):
    """A NumPy array in the byte order of the machine; any other array as it is."""
    return array.astype(array.dtype.newbyteorder("="), copy=False) if isinstance(array, np.ndarray) else array


def _float(array):
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)


def _check_head(function, features, weight):
    for name, array in (("features", features), ("weight", weight)):
        if dtype_name(array) == "bool" or dtype_name(array).startswith("complex"):
            raise TypeError(f"{function}: {name} are real numbers, not {dtype_name(array)}.")
    if weight.ndim != 2 or features.ndim == 0 or features.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{function}: features (*batch, width) meet weight (classes, width), as torch.nn.Linear has it; features "
            f"are {shape(features)}, weight is {shape(weight)}."
        )
    if 0 in weight.shape:
        raise ValueError(f"{function}: weight {shape(weight)} has no {'classes' if not weight.shape[0] else 'width'}.")


def _one_each(function, name, array, each, like):
    if tuple(array.shape) != tuple(like.shape):
        raise ValueError(f"{function}: one {name} per {each}, {shape(like)}; {name} is {shape(array)}.")


def _check_settings(function, settings):
    if not 0 <= settings["label_smoothing"] <= 1:
        raise ValueError(f"{function}: label_smoothing is between 0 and 1, not {settings['label_smoothing']!r}.")
    if not 0 <= settings["z_loss"] < math.inf:
        raise ValueError(f"{function}: z_loss is a finite factor, not below 0; {settings['z_loss']!r} came.")
    if not isinstance(settings["temperature"], int | float):
        raise TypeError(f"{function}: temperature is one number here; {type(settings['temperature']).__name__} came.")
    positive(function, "temperature", settings["temperature"])
    if settings["softcap"] is not None:
        positive(function, "softcap", settings["softcap"])
