"""Does a supervised contrastive loss shape an encoder? A linear probe on its embeddings answers.

The images of digits that scikit-learn bundles are shifted and noised into two views. One encoder learns from `sup_con`,
another of the same size keeps the weights it was born with, and a logistic regression reads the digit from each.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import lastlayer as ll
from lastlayer.loss.contrastive import sup_con

DIMENSIONS, EPOCHS, BATCH, TEMPERATURE = 8, 12, 100, 0.2


def encoder():
    """64 pixels to a point on the unit sphere of so many dimensions (`embed` brings it there)."""
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, DIMENSIONS))


def embed(model, pixels):
    """Vectors of length 1, so that their products are cosines."""
    return torch.nn.functional.normalize(model(pixels), dim=-1)


def view(pixels, generator):
    """The images, noised and moved by up to one pixel."""
    images = pixels.reshape(-1, 8, 8) + 0.1 * torch.randn(len(pixels), 8, 8, generator=generator)
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return torch.roll(images, (down, right), dims=(1, 2)).reshape(-1, 64)


def train(model, pixels, label, seed=0):
    """Prints each fourth epoch. No anchor is without a positive: both views of an image have its label."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for rows in torch.randperm(len(pixels), generator=generator).split(BATCH):
            views = torch.cat([view(pixels[rows], generator), view(pixels[rows], generator)])
            vectors = embed(model, views)
            loss = ll.mean(sup_con(vectors @ vectors.T, label[rows].repeat(2), temperature=TEMPERATURE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if epoch % 4 == 0:
            print(f"epoch {epoch:2d}: sup_con {np.mean(losses):.3f}")


def probe(model, pixels, label, trained_on):
    """The share of unseen images that a logistic regression on the embeddings reads right."""
    with torch.no_grad():
        vectors = embed(model, pixels).numpy()
    reader = LogisticRegression(max_iter=1000).fit(vectors[:trained_on], label[:trained_on])
    return reader.score(vectors[trained_on:], label[trained_on:])


def main(seed=0):
    digits, label = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digits))
    pixels = torch.from_numpy(digits[order] / 16).float()
    label, trained_on = label[order], 1000
    torch.manual_seed(seed)
    learned = encoder()
    torch.manual_seed(seed)
    untrained = encoder()
    train(learned, pixels[:trained_on], torch.from_numpy(label[:trained_on]), seed)
    random_score, score = (probe(model, pixels, label, trained_on) for model in (untrained, learned))
    print(f"linear probe on {DIMENSIONS} dimensions, {len(label) - trained_on} unseen images:")
    print(f"  random encoder   {random_score:.3f}")
    print(f"  after sup_con    {score:.3f}")
    return random_score, score


if __name__ == "__main__":
    torch.set_num_threads(1)  # matrices this small lose more to threads than they gain
    main()
