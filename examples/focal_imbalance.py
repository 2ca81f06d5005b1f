"""One positive in a hundred: what cross-entropy, focal loss and balanced softmax make of it.

A linear model on two overlapping clouds, trained by each loss and judged on held-out rows. The three rank the rows
alike. At the default threshold (logit 0) cross-entropy and focal loss find the same few positives; balanced softmax,
which is told the class counts, finds nine in ten and pays in precision. What focal loss changes is where the training
signal comes from: rows that are already right with a probability above 0.9 have next to no share in it.
"""

import torch

import lastlayer as ll
from lastlayer.loss.focal import binary_focal
from lastlayer.loss.imbalance import balanced_softmax

LOSSES = {
    "cross_entropy": lambda z, y, counts: ll.binary_cross_entropy(z, y),
    "binary_focal": lambda z, y, counts: binary_focal(z, y),
    "balanced_softmax": lambda z, y, counts: balanced_softmax(torch.stack([0 * z, z], -1), y, counts),
}


def clouds(rows, generator):
    """Features with a 1 for the bias, and labels of which one in a hundred is positive."""
    y = (torch.arange(rows) % 101 == 0).long()
    x = torch.randn(rows, 2, generator=generator, dtype=torch.float64) + 2.5 * y[:, None] * torch.tensor([1.0, 0.5])
    return torch.cat([x, torch.ones(rows, 1, dtype=torch.float64)], -1), y


def train(loss, x, y):
    """The weights at which the mean loss is least."""
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    counts = torch.bincount(y).tolist()
    optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        mean = ll.mean(loss(x @ weight, y, counts))
        mean.backward()
        return mean

    optimizer.step(step)
    return weight.detach()


def signal_of_the_sure(loss, z, y):
    """The share of the gradient that comes from rows whose label already has a probability above 0.9."""
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, y, torch.bincount(y).tolist()).sum(), z)
    sure = ll.sigmoid(torch.where(y == 1, z, -z).detach()) > 0.9
    return float(slope[sure].abs().sum() / slope.abs().sum())


def average_precision(z, y):
    hits = y[z.argsort(descending=True)].double()
    return float((hits.cumsum(0) / torch.arange(1, len(hits) + 1) * hits).sum() / hits.sum())


def run(seed):
    """For each loss: average precision, recall and balanced accuracy at logit 0, and the signal of the sure rows."""
    generator = torch.Generator().manual_seed(seed)
    (x, y), (held_out, truth) = clouds(5_050, generator), clouds(50_500, generator)
    figures = {}
    for name, loss in LOSSES.items():
        weight = train(loss, x, y)
        z = held_out @ weight
        recall, rejected = (float(((z > 0) == label)[truth == label].double().mean()) for label in (1, 0))
        signal = signal_of_the_sure(loss, x @ weight, y)
        figures[name] = (average_precision(z, truth), recall, (recall + rejected) / 2, signal)
    return figures


if __name__ == "__main__":
    print(f"{'':18}{'avg. precision':>16}{'recall':>8}{'balanced acc.':>15}{'signal of the sure':>20}")
    for name, (precision, recall, balanced, signal) in run(seed=0).items():
        print(f"{name:18}{precision:16.3f}{recall:8.3f}{balanced:15.3f}{signal:20.3f}")
