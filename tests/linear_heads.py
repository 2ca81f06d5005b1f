"""Streamed losses beside their composition: what each is given, and the loss of all the logits, in PyTorch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import lastlayer as ll
from lastlayer import linear

torch = pytest.importorskip("torch")

ROWS, WIDTH, CLASSES = 90, 7, 300


class Case(NamedTuple):
    """The name of a streamed loss; its arrays, features and weight first; settings; the loss of all the logits."""

    name: str
    arrays: list
    settings: dict[str, Any]
    composed: Callable

    @property
    def function(self) -> Callable:
        return getattr(linear, self.name)

    @property
    def small(self):
        """Bytes that make several blocks of the classes, and several groups of rows."""
        own = self.name == "linear_sampled_softmax" and self.arrays[3].ndim == 2
        return 500_000 if own else {"linear_focal": 16_000, "linear_info_nce": 22_000}.get(self.name, 60_000)

    @property
    def grad(self) -> Callable:
        return getattr(linear, f"{self.name}_grad")

    def cast(self, dtype):
        """The same in another dtype."""

        def to(array):
            real = isinstance(array, np.ndarray) and array.dtype.kind == "f"
            return array.astype(dtype) if real else array

        settings = {name: to(value) for name, value in self.settings.items()}
        return self._replace(arrays=[to(a) for a in self.arrays], settings=settings)

    def leaves(self):
        """Features, weight and bias as tensors with gradients."""
        given = self.arrays[0], self.arrays[1], self.settings.get("bias") if "siglip" not in self.name else None
        return [torch.from_numpy(np.asarray(a)).requires_grad_() for a in given if a is not None]

    def streamed(self, leaves, **more):
        """The streamed losses of tensors."""
        rest = [torch.from_numpy(a) for a in self.arrays[2:]]
        settings = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in self.settings.items()}
        bias = {"bias": leaves[2]} if len(leaves) > 2 else {}
        return self.function(*leaves[:2], *rest, **(settings | bias | more))

    def by_hand(self, leaves):
        """The losses of all the logits."""
        x, w, *b = leaves
        return self.composed(x @ w.T + (b[0] if b else 0))


def of_classes(name, loss, rng, settings):
    target = rng.integers(0, CLASSES, ROWS)
    given = {"target": torch.from_numpy(target)} | tensors(settings)
    return name, [target], settings, functools.partial(loss, **given)


def of_labels(name, loss, rng, settings, target=None, per_row=False):
    target = rng.integers(0, 2, (ROWS, CLASSES)) if target is None else target
    given = tensors(settings)
    if per_row:
        given["valid"] = given["valid"][:, None].expand(ROWS, CLASSES)
    tau = given.pop("temperature", 1.0)
    return name, [target], settings, lambda z: loss(z / tau, torch.from_numpy(target), **given).sum(-1)


def of_pairs(name, loss, rng, settings, positive=None):
    given, arrays = tensors(settings), []
    if positive is not None:
        arrays, given["positive"] = [positive], torch.from_numpy(positive)
    return name, arrays, settings, functools.partial(loss, **given)


def of_draws(name, rng, settings, own=False, accidental=None):
    target, negatives = rng.integers(0, CLASSES, ROWS), rng.integers(0, CLASSES, (ROWS, 100) if own else 200)
    negatives[..., 0] = negatives[..., 3] = target[5]
    same = torch.from_numpy(negatives == target[:, None])

    def loss(z):
        index = torch.from_numpy(np.broadcast_to(negatives, (ROWS, negatives.shape[-1])).copy())
        positive = z.gather(1, torch.from_numpy(target)[:, None])[:, 0]
        hits = {} if accidental else {"accidental": same}
        return ll.loss.sampled_softmax(positive, z.gather(1, index), **hits, **tensors(settings))

    more = {"accidental": accidental} if accidental else {}
    return name, [target, negatives], settings | more, loss


def tensors(settings):
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}


def cases(rng):
    """Every case by a name for the test."""
    weights = rng.uniform(0.2, 2.0, CLASSES)
    weights[0] = 0.0
    rows, entries = rng.random(ROWS) < 0.7, rng.random((ROWS, CLASSES)) < 0.7
    positive, shares = rng.integers(0, CLASSES, ROWS), rng.uniform(size=(ROWS, CLASSES))
    log_q = np.log(rng.uniform(0.01, 0.5, 200))
    drawn = {"log_q_negatives": log_q, "log_q_positive": np.log(rng.uniform(0.01, 0.5, ROWS))}
    own = {"log_q_negatives": np.log(rng.uniform(0.01, 0.5, (ROWS, 100))), "valid": rows}
    square, focal, binary = entries[:, :ROWS], "linear_focal", ll.loss.binary_focal
    labels, bce, siglip = "linear_multilabel_cross_entropy", ll.binary_cross_entropy, {"scale": 2.0, "bias": -3.0}
    nce, sampled = "linear_info_nce", "linear_sampled_softmax"
    return {
        "focal": of_classes(focal, ll.focal, rng, {}),
        "focal root": of_classes(focal, ll.focal, rng, {"gamma": 0.5, "valid": rows}),
        "focal plain": of_classes(focal, ll.focal, rng, {"gamma": 0.0, "class_weight": weights}),
        "labels": of_labels(labels, bce, rng, {"pos_weight": weights}),
        "labels, shares": of_labels(labels, bce, rng, {"temperature": 0.5, "pos_weight": 3.0}, shares),
        "labels, entries": of_labels(labels, bce, rng, {"valid": entries}, shares > 0.5),
        "labels, rows": of_labels(labels, bce, rng, {"valid": rows}, per_row=True),
        "binary focal": of_labels("linear_binary_focal", binary, rng, {}),
        "binary focal, alpha": of_labels("linear_binary_focal", binary, rng, {"alpha": 0.25, "gamma": 1.5}, shares),
        "info_nce": of_pairs(nce, ll.info_nce, rng, {"temperature": 0.7}),
        "info_nce, masked": of_pairs(nce, ll.info_nce, rng, {"mask": entries, "valid": rows}, positive),
        "clip": of_pairs("linear_clip", ll.loss.clip, rng, {"temperature": 0.5}),
        "clip, masked": of_pairs("linear_clip", ll.loss.clip, rng, {"temperature": 2.0, "mask": square, "valid": rows}),
        "siglip": of_pairs("linear_siglip", ll.siglip, rng, siglip),
        "siglip, index": of_pairs("linear_siglip", ll.siglip, rng, siglip | {"valid": rows, "mask": entries}, positive),
        "siglip, matrix": of_pairs("linear_siglip", ll.siglip, rng, siglip, shares > 0.9),
        "sampled": of_draws(sampled, rng, {}),
        "sampled, kept": of_draws(sampled, rng, {"valid": rows}, accidental="keep"),
        "sampled, log q": of_draws(sampled, rng, drawn),
        "sampled, own": of_draws(sampled, rng, own, own=True),
    }


def case(name, dtype="float64"):
    """A case with its features and weight."""
    rng = np.random.default_rng(3)
    function, arrays, settings, composed = cases(rng)[name]
    features, weight = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(CLASSES, WIDTH))
    if function == "linear_clip":
        weight = weight[:ROWS]
    if function not in ("linear_info_nce", "linear_clip", "linear_siglip"):
        settings = settings | {"bias": rng.normal(size=CLASSES)}
    return Case(function, [features, weight, *arrays], settings, composed).cast(dtype)


NAMES = list(cases(np.random.default_rng(0)))
FUNCTIONS = sorted({each[0] for each in cases(np.random.default_rng(0)).values()})
