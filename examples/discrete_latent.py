"""A code learned from samples of it: which estimate of the gradient is right on average, and what a wrong one costs.

A code is three symbols out of four each. A fixed linear decoder turns it into a point, and it costs the distance of
that point to a target, squared. There are 64 codes, so the expected cost under the logits and its gradient are known
exactly. Beside that gradient stand estimates from eight draws: their bias and their noise where all codes are equally
likely, over the length of the exact gradient, and the cost after training on each, above that of the best code.

REINFORCE has no bias but what chance leaves in a mean of so many trials, and the most noise. The Gumbel-softmax sample
is the other way round: it follows the cost of points between the codes, less so at a low temperature. The
straight-through one-hot looks at codes only, but takes the slope of the cost there for the difference between codes,
at which a squared distance bends away: of the four it alone settles on codes that are clearly worse.
"""

import itertools

import torch

from lastlayer.loss.policy import policy_logp, reinforce_leave_one_out
from lastlayer.transform.relaxed import gumbel_softmax, straight_through

SYMBOLS, CLASSES, POINT, DRAWS, TRIALS, STEPS, WORLDS = 3, 4, 6, 8, 2_000, 300, 5
CODES = torch.tensor(list(itertools.product(range(CLASSES), repeat=SYMBOLS)))


def cost(code, world):
    """The squared distance that a code ``(..., symbols, classes)`` leaves, of one-hot rows or of points between."""
    decoder, target = world
    return ((code.flatten(-2) @ decoder - target) ** 2).mean(-1)


def onehot(code):
    return torch.nn.functional.one_hot(code, CLASSES).double()


def expected(logits, world):
    """The cost of all codes, each by its probability: no sampling."""
    logp = policy_logp(logits.expand(len(CODES), SYMBOLS, CLASSES), CODES).sum(-1)
    return (logp.exp() * cost(onehot(CODES), world)).sum()


def reinforce(logits, key, world):
    """The losses of drawn codes: the largest of logits with Gumbel noise is a draw of their softmax."""
    drawn = gumbel_softmax(logits.detach(), key).argmax(-1)
    return reinforce_leave_one_out(policy_logp(logits, drawn).sum(-1), -cost(onehot(drawn), world))


ESTIMATES = {
    "REINFORCE, leave-one-out": reinforce,
    "Gumbel-softmax at 1": lambda logits, key, world: cost(gumbel_softmax(logits, key), world),
    "Gumbel-softmax at 0.3": lambda logits, key, world: cost(gumbel_softmax(logits, key, temperature=0.3), world),
    "straight-through": lambda logits, key, world: cost(straight_through(gumbel_softmax(logits, key)), world),
}


def estimates(losses, logits, world, trials, key):
    """``trials`` estimates of the gradient at ``logits``, each the mean over ``DRAWS`` draws."""
    drawn = logits.expand(trials, DRAWS, SYMBOLS, CLASSES).clone().requires_grad_()
    (slopes,) = torch.autograd.grad(losses(drawn, key, world).sum(), drawn)
    return slopes.mean(1)


def exact(logits, world):
    logits = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(expected(logits, world), logits)
    return slope


def quality(losses, world):
    """Bias of an estimate at equal logits, what of it chance explains, and noise, over the exact gradient's length."""
    start = torch.zeros(SYMBOLS, CLASSES, dtype=torch.float64)
    truth, slopes = exact(start, world), estimates(losses, start, world, TRIALS, key=STEPS)
    noise = (slopes - slopes.mean(0)).square().sum((1, 2)).mean().sqrt()
    lengths = (slopes.mean(0) - truth).norm(), noise / TRIALS**0.5, noise
    return tuple(float(length / truth.norm()) for length in lengths)


def trained(slope, world):
    """The expected cost above that of the best code, after Adam on ``slope(logits, step)``."""
    logits = torch.zeros(SYMBOLS, CLASSES, dtype=torch.float64)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for step in range(STEPS):
        logits.grad = slope(logits, step)
        optimizer.step()
    return float(expected(logits, world) - cost(onehot(CODES), world).min())


def run(seed):
    """For each gradient: bias, the part of chance in it, noise, and what training on it leaves of the cost."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(SYMBOLS * CLASSES, POINT, generator=generator, dtype=torch.float64)
    world = decoder, torch.randn(POINT, generator=generator, dtype=torch.float64)
    figures = {"exact": (0.0, 0.0, 0.0, trained(lambda logits, step: exact(logits, world), world))}
    for name, losses in ESTIMATES.items():
        left = trained(lambda logits, step, losses=losses: estimates(losses, logits, world, 1, step)[0], world)
        figures[name] = (*quality(losses, world), left)
    return figures


def main():
    """The means over several decoders and targets."""
    runs = [run(seed) for seed in range(WORLDS)]
    means = {name: torch.tensor([figures[name] for figures in runs]).mean(0).tolist() for name in runs[0]}
    print(f"{'':26}{'bias':>8}{'(chance)':>10}{'noise':>8}{'cost left':>11}")
    for name, (bias, chance, noise, left) in means.items():
        print(f"{name:26}{bias:8.3f}{chance:10.3f}{noise:8.3f}{left:11.3f}")
    return means


if __name__ == "__main__":
    main()
