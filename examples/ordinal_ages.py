"""Ages in eight groups: what is gained by telling the loss that classes have an order.

Each row has a hidden quantity, linear in its features, and a group by where that falls, with noise. A linear model is
trained on few rows, once with `cross_entropy` over eight classes, once with `cumulative_link` over one score and seven
thresholds. Both predict the median group, which is what the mean absolute error asks for. Knowing the order, the second
has 17 numbers to learn in place of 88, and is wrong by less.
"""

import torch

import lastlayer as ll
from lastlayer.loss.ordinal import cumulative_link

GROUPS, FEATURES = 8, 10


def ages(rows, weight, generator):
    x = torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    hidden = x @ weight + torch.logit(uniform)
    return x, torch.bucketize(hidden, torch.linspace(-4.5, 4.5, GROUPS - 1, dtype=torch.float64))


def by_class(parameters, x):
    return x @ parameters[0] + parameters[1]


def by_order(parameters, x):
    """Score and thresholds: the first one, and the logarithms of the steps to the others."""
    first, steps = parameters[1][:1], torch.exp(parameters[1][1:])
    return x @ parameters[0], torch.cat([first, first + torch.cumsum(steps, 0)])


def train(loss, shapes):
    """Parameters at which the mean loss is least."""
    parameters = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        mean = ll.mean(loss(parameters))
        mean.backward()
        return mean

    optimizer.step(step)
    return [parameter.detach() for parameter in parameters]


def run(seed):
    """For each loss, the mean absolute error of the predicted group on held-out rows."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    x, y = ages(200, weight, generator)
    held_out, truth = ages(20_000, weight, generator)

    classes = train(lambda p: ll.cross_entropy(by_class(p, x), y), [(FEATURES, GROUPS), (GROUPS,)])
    levels = torch.softmax(by_class(classes, held_out), -1).cumsum(-1)[:, :-1]

    order = train(lambda p: cumulative_link(by_order(p, x)[0], y, by_order(p, x)[1]), [(FEATURES,), (GROUPS - 1,)])
    score, thresholds = by_order(order, held_out)
    predicted = {"cross_entropy": (levels < 0.5).sum(-1), "cumulative_link": torch.bucketize(score, thresholds)}
    return {name: float((level - truth).abs().double().mean()) for name, level in predicted.items()}


if __name__ == "__main__":
    print("mean absolute error, in groups")
    for name, error in run(seed=0).items():
        print(f"{name:18}{error:6.3f}")
