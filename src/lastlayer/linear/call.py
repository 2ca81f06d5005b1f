"""A call of a streamed head, checked: what came, as the rows and arrays that are swept."""

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import as_array, dtype_name, floating, is_torch, namespace, readable, to_numpy, together
from lastlayer._check import positive, shape
from lastlayer.linear.head import Head
from lastlayer.linear.plan import planned
from lastlayer.linear.products import NumpyProducts, TorchProducts


class Words(NamedTuple):
    """What the two sides of a head are called, how they meet, and what one without columns lacks."""

    rows: str
    columns: str
    column: str
    classes: str
    law: str
    lacking: str


LAYER = Words(
    "features",
    "weight",
    "class",
    "classes of weight",
    "features (*batch, width) meet weight (classes, width), as torch.nn.Linear has it; features are {}, weight is {}",
    "classes",
)
PAIRS = Words(
    "queries",
    "keys",
    "key",
    "keys",
    "queries (*batch, width) meet keys (keys, width); queries are {}, keys are {}",
    "rows",
)


@dataclass(frozen=True)
class Layer:
    """A last layer and the rows it sees, arguments whose shapes agree."""

    function: str
    words: Words
    features: Any
    weight: Any
    bias: Any
    valid: Any
    temperature: float
    softcap: float | None
    memory: int | str

    @classmethod
    def of(
        cls,
        function,
        features,
        weight,
        *,
        memory,
        bias=None,
        valid=None,
        temperature=1.0,
        softcap=None,
        words=LAYER,
        **more,
    ):
        """The layer, or a sentence on what does not fit."""
        features = _native(as_array(features))
        weight = _native(as_array(weight, like=features))
        _check_sides(function, words, features, weight)
        if bias is not None:
            bias = _native(as_array(bias, like=features))
            one_each(function, "bias", bias, words.column, weight[:, 0])
        if valid is not None:
            valid = as_array(valid, like=features)
            one_each(function, "valid", valid, f"row of {words.rows}", features[..., 0])
            valid = namespace(valid).astype(valid, namespace(valid).bool)
        if not isinstance(temperature, int | float):
            raise TypeError(f"{function}: temperature is one number here; {type(temperature).__name__} came.")
        positive(function, "temperature", temperature)
        if softcap is not None:
            positive(function, "softcap", softcap)
        return cls(function, words, features, weight, bias, valid, temperature, softcap, memory, **more)

    @property
    def batch(self):
        """The shape of one number per row."""
        return tuple(self.features.shape[:-1])

    @property
    def entries(self):
        """The shape of all the logits, as an array that takes no memory."""
        return np.broadcast_to(False, (*self.batch, self.weight.shape[0]))

    @cached_property
    def dtype(self):
        """The dtype that the logits are made in."""
        given = [x for x in (self.features, self.weight, self.bias) if x is not None]
        names = {dtype_name(x) for x in given}
        plain = self.softcap is None and self.temperature == 1
        if names == {"bfloat16"} and plain and is_torch(self.features):
            return "bfloat16"
        name = str(np.result_type(*(np.dtype(dtype_name(floating(x[:0]))) for x in given)))
        return name if name in ("float32", "float64") else "float64"

    @cached_property
    def kept(self):
        """The rows that count, as indices; None for all of them."""
        return None if self.valid is None else _indices(to_numpy(self.valid).reshape(-1))

    @property
    def rows(self):
        """How many rows count."""
        return math.prod(self.batch) if self.kept is None else len(self.kept)

    def head(self, gradients, sweeps=2, share=1, kind: Any = Head, held=0) -> Head:
        """The layer, over the rows that count, with one part in ``share`` of the budget.

        ``held`` is the bytes of a row that are there all along.
        """
        classes, width = self.weight.shape
        size = self.rows, width, classes, self.dtype
        plan = planned(self.function, *size, self.memory, gradients, sweeps, share, held=held * self.rows)
        bias = None if self.bias is None else self.swept(self.bias)
        weight = self.swept(self.weight)
        return kind(self.counted(), weight, bias, self.softcap, self.temperature, self.products(), plan)

    def products(self):
        """The library that multiplies."""
        return (TorchProducts if is_torch(self.features) else NumpyProducts)(self.dtype)

    def counted(self):
        """The features of the rows that count, in the dtype of the logits."""
        features = self.swept(self.features.reshape(-1, self.features.shape[-1]))
        return features if self.kept is None else features[self.kept]

    def swept(self, array):
        """An argument in the dtype of the logits, rows one after another."""
        if is_torch(array):
            return array.detach().to(getattr(sys.modules["torch"], self.dtype)).contiguous()
        return np.ascontiguousarray(to_numpy(array), dtype=self.dtype)

    def logits(self, features, weight, bias):
        """All the logits, in any array library; a row that is not valid has only those of the bias."""
        given = [x for x in (features, weight, bias) if x is not None]
        (x, w, *b), xp = together(*given)
        if self.valid is not None:
            x = xp.where(self.valid[..., None], x, xp.zeros_like(x))
        logits = xp.matmul(x, w.T)
        return logits + b[0] if b else logits

    def of_rows(self, array):
        """One number per row, of the rows that count."""
        array = array.reshape(-1)
        return array if self.kept is None else array[self.kept]

    def cotangents(self, cotangent=None):
        """What each row's loss is multiplied by before the sum; without ``cotangent``, the mean's."""
        if cotangent is None:
            return np.full(self.rows, 1 / max(self.rows, 1))
        cotangent = to_numpy(cotangent)
        one_each(self.function, "cotangent", cotangent, f"row of {self.words.rows}", self.features[..., 0])
        return self.of_rows(cotangent).astype(np.float64)

    def losses(self, loss):
        """The losses of the rows that count, among the others, which are 0."""
        loss = loss.astype("float32" if self.dtype == "bfloat16" else self.dtype)
        if self.kept is not None:
            found, loss = loss, np.zeros(math.prod(self.batch), loss.dtype)
            loss[self.kept] = found
        return loss.reshape(self.batch)

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
        whole = zeros((math.prod(self.batch), gradient.shape[1]), dtype=gradient.dtype)
        whole[self.kept] = gradient
        return whole


@dataclass(frozen=True)
class Call(Layer):
    """A layer and the class that each row belongs to; a row whose class weighs 0 does not count."""

    target: Any
    name: str
    class_weight: Any

    @classmethod
    def of(cls, function, features, weight, target, *, name="target", class_weight=None, words=LAYER, **layer):
        features = as_array(features)
        target = as_array(target, like=features)
        if not dtype_name(target).startswith(("int", "uint")):
            kind = dtype_name(target)
            raise TypeError(f"{function}: {name} is the index of a {words.column}, an integer, not {kind}.")
        class_weight = None if class_weight is None else as_array(class_weight, like=features)
        more = {"target": target, "name": name, "class_weight": class_weight}
        call = super().of(function, features, weight, words=words, **layer, **more)
        one_each(function, name, target, f"row of {words.rows}", call.features[..., 0])
        if class_weight is not None:
            one_each(function, "class_weight", class_weight, words.column, call.weight[:, 0])
        return call

    @cached_property
    def kept(self):
        """The rows that count, as indices; None for all of them."""
        keep = np.ones(self.batch, bool) if self.valid is None else to_numpy(self.valid)
        keep = keep.reshape(-1)
        target = to_numpy(self.target).reshape(-1)
        classes = self.weight.shape[0]
        outside = keep & ((target < 0) | (target >= classes))
        if outside.any():
            row = int(np.argmax(outside))
            hint = " Ignored rows are said aloud: valid=target != -100." if target[row] == -100 else ""
            raise ValueError(
                f"{self.function}: {self.name} {target[row]} of row {row} is not one of the {classes} "
                f"{self.words.classes} {shape(self.weight)}.{hint}"
            )
        if self.class_weight is not None:
            keep = keep & (self._class_weights()[np.where(keep, target, 0)] != 0)
        return _indices(keep)

    def targets(self):
        """The class of each row that counts."""
        return self.of_rows(to_numpy(self.target)).astype(np.int64)

    def scale(self):
        """What each row that counts weighs."""
        target = self.targets()
        return np.ones(len(target)) if self.class_weight is None else self._class_weights()[target]

    def _class_weights(self):
        weight = to_numpy(self.class_weight).astype(np.float64)
        outside = ~((weight >= 0) & (weight < np.inf))
        if outside.any():
            raise ValueError(
                f"{self.function}: class weights are finite and not below 0; one is {weight[outside][0]:g}."
            )
        return weight


def concrete(*arrays):
    """Whether all the arrays are here to be read: NumPy's, or PyTorch's in the memory of the CPU, untraced."""
    return all(readable(x) for x in arrays if x is not None)


def one_each(function, name, array, each, like):
    """Refuse an array that has not one number for ``each`` of what ``like`` has one for."""
    if tuple(array.shape) != tuple(like.shape):
        raise ValueError(f"{function}: one {name} per {each}, {shape(like)}; {name} is {shape(array)}.")


def _indices(keep):
    return None if keep.all() else np.flatnonzero(keep)


def _native(array):
    """A NumPy array in the byte order of the machine; any other array as it is."""
    return array.astype(array.dtype.newbyteorder("="), copy=False) if isinstance(array, np.ndarray) else array


def _float(array):
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)


def _check_sides(function, words, features, weight):
    for name, array in ((words.rows, features), (words.columns, weight)):
        if dtype_name(array) == "bool" or dtype_name(array).startswith("complex"):
            raise TypeError(f"{function}: {name} are real numbers, not {dtype_name(array)}.")
    if weight.ndim != 2 or features.ndim == 0 or features.shape[-1] != weight.shape[1]:
        raise ValueError(f"{function}: {words.law.format(shape(features), shape(weight))}.")
    if 0 in weight.shape:
        nothing = "width" if weight.shape[0] else words.lacking
        raise ValueError(f"{function}: {words.columns} {shape(weight)} has no {nothing}.")
