"""Can a policy learn the best arm from rewards alone? GRPO, and REINFORCE with a leave-one-out baseline beside it.

In each of four contexts one of five arms pays best, and a draw pays its mean plus noise. The policy is a table of
logits. Each step draws a group of arms in every context and learns from their rewards; the reference is the policy of
the start, which the penalty of GRPO keeps near, and from which the KL divergence is reported.
"""

import torch

import lastlayer as ll
from lastlayer.loss.distillation import distill
from lastlayer.loss.policy import grpo, kl_to_reference, policy_logp, reinforce_leave_one_out

CONTEXTS, ARMS, GROUP, STEPS, INNER = 4, 5, 8, 60, 4
NOISE, BETA = 0.3, 0.02


def payoffs(generator):
    """Mean pay of each arm in each context: one arm at 1, the others anywhere up to 1/2."""
    means = torch.rand(CONTEXTS, ARMS, generator=generator) / 2
    best = torch.randint(ARMS, (CONTEXTS, 1), generator=generator)
    return means.scatter(1, best, 1.0)


def draw(logits, means, generator):
    """A group of arms in each context, and what each of them paid."""
    arms = torch.multinomial(ll.softmax(logits), GROUP, replacement=True, generator=generator)
    return arms, means.gather(1, arms) + NOISE * torch.randn(arms.shape, generator=generator)


def logp_of(logits, arms):
    """The log-probability of each arm of each group."""
    return policy_logp(logits[:, None, :].expand(-1, GROUP, -1), arms)


def train(name, means, reference, seed=0):
    """GRPO takes several clipped steps on each draw; REINFORCE is right for the first one only, so it takes one."""
    generator = torch.Generator().manual_seed(seed)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05 if name == "grpo" else 0.1)
    for _ in range(STEPS):
        with torch.no_grad():
            arms, reward = draw(logits, means, generator)
            old, start = logp_of(logits, arms), logp_of(reference, arms)
        for _ in range(INNER if name == "grpo" else 1):
            logp = logp_of(logits, arms)
            if name == "grpo":
                losses = grpo(logp, old, reward) + BETA * kl_to_reference(logp, start, kind="k3")
            else:
                losses = reinforce_leave_one_out(logp, reward)
            optimizer.zero_grad()
            ll.mean(losses).backward()
            optimizer.step()
    return logits.detach()


def expected(logits, means):
    """The reward a draw brings on average: no sampling, the policy is a table."""
    return float((ll.softmax(logits) * means).sum(-1).mean())


def main(seed=0):
    means = payoffs(torch.Generator().manual_seed(seed))
    reference = torch.zeros(CONTEXTS, ARMS)
    print(f"{CONTEXTS} contexts, {ARMS} arms, {STEPS} draws of {GROUP} in each; the best arm pays 1.000")
    print(f"  at the start             expected reward {expected(reference, means):.3f}")
    result = {"start": expected(reference, means)}
    for name in ("grpo", "reinforce_leave_one_out"):
        logits = train(name, means, reference, seed)
        kl = float(ll.mean(distill(reference, logits)))  # exact: KL(policy || reference)
        result[name] = expected(logits, means), kl
        right = int((logits.argmax(-1) == means.argmax(-1)).sum())
        report = f"expected reward {result[name][0]:.3f}, KL to the reference {kl:.3f}"
        print(f"  {name:24s} {report}, best arm in {right} of {CONTEXTS}")
    return result


if __name__ == "__main__":
    main()
