"""What does a teacher know beside the answer? A student with 50 labelled digits, with and without a teacher's logits.

A small network is trained on 900 handwritten digits. A student of the same kind gets the labels of only 50 of them;
then the same 50 labels and, for all 900, the teacher's logits at temperature 4 in place of the missing labels.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

import lastlayer as ll

LABELLED, TRAIN, EPOCHS = 50, 900, 300


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def trained(model, loss):
    """The model after full-batch steps on ``loss(model)``, one number per row."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        ll.mean(loss(model)).backward()
        optimizer.step()
    return model.requires_grad_(False)


def run(seed):
    """Held-out accuracy of the teacher, of the student on its own, and of the student with a teacher."""
    order = np.random.default_rng(seed).permutation(1797)
    digits = load_digits()
    x = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(digits.target[order])
    few, many, held_out = slice(LABELLED), slice(TRAIN), slice(TRAIN, None)
    labelled = torch.arange(TRAIN) < LABELLED

    teacher = trained(network(seed), lambda model: ll.cross_entropy(model(x[many]), y[many]))
    alone = trained(network(seed + 1), lambda model: ll.cross_entropy(model(x[few]), y[few]))
    knowledge = teacher(x[many])

    def taught(model):
        logits = model(x[many])
        hard = ll.cross_entropy(logits, y[many], valid=labelled)
        return ll.distill(logits, knowledge, temperature=4.0) + hard

    student = trained(network(seed + 1), taught)
    models = {"teacher": teacher, "student alone": alone, "student with teacher": student}
    return {name: ll.accuracy(model(x[held_out]), y[held_out]) for name, model in models.items()}


if __name__ == "__main__":
    for name, accuracy in run(seed=0).items():
        print(f"{name:22}{float(accuracy):.3f}  [{accuracy.low:.3f}, {accuracy.high:.3f}]")
