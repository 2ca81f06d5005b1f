"""DenseNet-40 on CIFAR-10: its ten classes, and animal against machine, each as (validation, test) `Outputs`."""

import numpy as np

from lastlayer import Outputs

ANIMALS = [2, 3, 4, 5, 6, 7]
MACHINES = [0, 1, 8, 9]


def multiclass(shared_data):
    with np.load(shared_data / "logits" / "densenet40_c10_logits.npz") as data:
        return tuple(
            Outputs(data[f"{part}_logits"], "logits", target=data[f"{part}_labels"]) for part in ("val", "test")
        )


def binary(shared_data):
    return tuple(_animals(outputs) for outputs in multiclass(shared_data))


def _animals(outputs):
    z = outputs.scores.astype(np.float64)
    odds = np.logaddexp.reduce(z[:, ANIMALS], axis=1) - np.logaddexp.reduce(z[:, MACHINES], axis=1)
    return Outputs(odds, "logits", target=np.isin(outputs.target, ANIMALS).astype(int))
