"""Does DPO order answers that it has never compared?

A hidden reward of sequences of six tokens is the sum of what the tokens are worth. The model sees pairs that the
reference wrote, each with the better one marked, a tenth of them wrongly. It is a small network that writes a token
from the one before, and starts as the reference. Held-out pairs are ordered by what it gained over the reference.
"""

import copy

import torch

import lastlayer as ll
from lastlayer.loss.policy import sequence_logp
from lastlayer.loss.preference import dpo

VOCABULARY, LENGTH, PAIRS, HELD_OUT, EPOCHS, BATCH = 20, 6, 1000, 1000, 6, 50
BETA, WRONG = 0.1, 0.1
START = VOCABULARY  # the token before the first


def network():
    """The logits of the next token from the last one."""
    embed = torch.nn.Embedding(VOCABULARY + 1, 32)
    return torch.nn.Sequential(embed, torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, VOCABULARY))


def logp_of(model, tokens):
    """One log-probability per sequence: the logits of each token come from the one before it."""
    before = torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], dim=1)
    return sequence_logp(model(before), tokens)


@torch.no_grad()
def write(model, count, generator):
    """Sequences that the model writes, token by token."""
    tokens = torch.full((count, 1), START)
    for _ in range(LENGTH):
        probs = ll.softmax(model(tokens[:, -1]))
        tokens = torch.cat([tokens, torch.multinomial(probs, 1, generator=generator)], dim=1)
    return tokens[:, 1:]


def compare(model, worth, count, wrong, generator):
    """``count`` pairs as (chosen, rejected), a share of them marked the wrong way round."""
    first, second = write(model, count, generator), write(model, count, generator)
    better = worth[first].sum(1) > worth[second].sum(1)
    better = (better ^ (torch.rand(count, generator=generator) < wrong))[:, None]
    return torch.where(better, first, second), torch.where(better, second, first)


def gains(policy, reference, pair):
    """Log-probabilities of the chosen and the rejected of each pair, under the policy and under the reference."""
    with torch.no_grad():
        start = [logp_of(reference, tokens) for tokens in pair]
    return *(logp_of(policy, tokens) for tokens in pair), *start


def ordered(policy, reference, pair):
    """The share of pairs whose better one gained more; a pair that neither gained nor lost counts half."""
    chosen, rejected, ref_chosen, ref_rejected = gains(policy, reference, pair)
    lead = (chosen - ref_chosen) - (rejected - ref_rejected)
    return float(((lead > 0).float() + 0.5 * (lead == 0).float()).mean())


def main(seed=0):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    reference, worth = network(), torch.randn(VOCABULARY)
    pairs = compare(reference, worth, PAIRS, WRONG, generator)
    unseen = compare(reference, worth, HELD_OUT, 0.0, generator)
    policy = copy.deepcopy(reference)
    before = ordered(policy, reference, unseen)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for rows in torch.randperm(PAIRS, generator=generator).split(BATCH):
            logps = gains(policy, reference, [tokens[rows] for tokens in pairs])
            loss = ll.mean(dpo(*logps, beta=BETA, label_smoothing=WRONG))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: dpo {sum(losses) / len(losses):.3f}")
    after = ordered(policy, reference, unseen)
    earned = [float(worth[write(model, HELD_OUT, generator)].sum(1).mean()) for model in (reference, policy)]
    print(f"held-out pairs ordered rightly: {before:.3f} before, {after:.3f} after")
    print(f"hidden reward of what is written: {earned[0]:.2f} before, {earned[1]:.2f} after")
    return before, after, earned


if __name__ == "__main__":
    main()
