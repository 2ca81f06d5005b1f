"""Two towers on a generated catalogue of which a few items get most of the clicks: what each loss makes of popularity.

Users click an item with probability softmax(taste + log popularity). The items of a batch are clicks too, so popular
items are the negatives most often: without logQ the scores learn `log p - log q`, and rank the long tail too high.
"""

import torch

from lastlayer.loss.ranking import bpr
from lastlayer.loss.sampled import gbce, in_batch

USERS, ITEMS, SIZE, CLICKS, BATCH, STEPS = 400, 200, 8, 40, 128, 200


def clicks(random):
    """Clicks to learn from, and one held out for each user, as (users, clicks) of items."""
    taste = torch.randn(USERS, SIZE, generator=random) @ torch.randn(SIZE, ITEMS, generator=random) / SIZE**0.5
    popularity = -1.2 * torch.log1p(torch.randperm(ITEMS, generator=random).float())  # Zipf's law
    drawn = torch.multinomial(torch.softmax(taste + popularity, -1), CLICKS + 1, True, generator=random)
    return drawn[:, :-1], drawn[:, -1]


def losses_of(name, towers, users, items, log_q, random):
    """The losses of one batch of clicks."""
    of_user, of_item, bias = (tower(index) for tower, index in zip(towers, (users, items, items), strict=True))
    if name.startswith("in-batch"):
        return in_batch(
            of_user @ of_item.T + bias[:, 0], log_q=log_q[items] if name.endswith("logQ") else None, ids=items
        )
    others = torch.randint(ITEMS, (len(users), 16), generator=random)
    positive = (of_user * of_item).sum(-1) + bias[:, 0]
    negatives = (of_user[:, None] * towers[1](others)).sum(-1) + towers[2](others)[..., 0]
    return bpr(positive[:, None], negatives) if name == "BPR" else gbce(positive, negatives, items=ITEMS)


def train(name, seen, seed=0):
    """Scores of every user for every item, after some steps on the clicks that were seen."""
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    towers = [torch.nn.Embedding(USERS, SIZE), torch.nn.Embedding(ITEMS, SIZE), torch.nn.Embedding(ITEMS, 1)]
    weights = [tower.weight for tower in towers]
    for weight in weights:
        torch.nn.init.normal_(weight, std=0.1)
    optimizer = torch.optim.Adam(weights, lr=0.02, weight_decay=1e-4)
    log_q = torch.log(torch.bincount(seen.flatten(), minlength=ITEMS) / seen.numel())
    for _ in range(STEPS):
        users = torch.randint(USERS, (BATCH,), generator=random)
        items = seen[users, torch.randint(CLICKS, (BATCH,), generator=random)]
        optimizer.zero_grad()
        losses_of(name, towers, users, items, log_q, random).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return weights[0] @ weights[1].T + weights[2][:, 0]


def judge(scores, seen, held_out):
    """Recall and NDCG at 10 of the held-out click, and the share of clicks that the items of the top 10 have."""
    rank = (scores > scores.gather(1, held_out[:, None])).sum(-1)
    share = torch.bincount(seen.flatten(), minlength=ITEMS) / seen.numel()
    return {
        "recall@10": (rank < 10).double().mean().item(),
        "ndcg@10": torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0).mean().item(),
        "popularity of the top 10": share[scores.topk(10).indices].sum(-1).mean().item(),
    }


def main():
    """Train with each loss, print a table, and give it back."""
    seen, held_out = clicks(torch.Generator().manual_seed(0))
    table = {}
    for name in ("in-batch", "in-batch, logQ", "BPR", "gBCE"):
        table[name] = judge(train(name, seen), seen, held_out)
        print(f"{name:16}" + "".join(f"{key} {value:.3f}   " for key, value in table[name].items()), flush=True)
    return table


if __name__ == "__main__":
    main()
