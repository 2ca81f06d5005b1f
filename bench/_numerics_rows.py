"""The rows that `numerics.py` measures on, with the targets, shares and priors that go with them."""

from typing import NamedTuple

import numpy as np

CLASSES = (2, 10, 1_000, 32_000, 256_000)
ROUNDED = {  # each set of rows, as its dtypes hold them exactly
    "float64": lambda x: x,
    "float32": lambda x: x.astype(np.float32).astype(np.float64),
    "half": lambda x: _eight_bits(np.round(x * 4096) / 4096),  # bfloat16 and float16 both
}
SEEDS = {"float64": 7, "float32": 7, "half": 4}


class Block(NamedTuple):
    """Rows of one length, or single numbers, with all that a function may take beside them."""

    x: np.ndarray  # (rows, classes), or (numbers,)
    kind: list[str]  # of each row
    margin: np.ndarray  # of each row: target above the rest, nan where the row is of another kind
    beside: dict[str, np.ndarray]


def rows(classes, precision):
    """Every kind of row, of so many classes, in values that the precision holds; the longer the fewer."""
    rng = np.random.default_rng([classes, SEEDS[precision]])
    many = {2: 12, 10: 8}.get(classes, 1)
    margins = {32_000: (20, 80), 256_000: (60,)}.get(classes, range(81))
    scales = (1,) if classes == 256_000 else (1, 3, 10, 30)
    drawn = [(f"scale {scale}", rng.normal(0, scale, classes)) for scale in scales for _ in range(many)]
    drawn += [(f"margin {margin}", rng.normal(0, 1, classes)) for margin in margins for _ in range(many)]
    drawn += [("30 % masked", rng.normal(0, 3, classes)) for _ in range(many)]
    if classes < 256_000:
        drawn += [("all equal", np.full(classes, 1.75)), ("ramp", np.linspace(-20, 20, classes))]
    x, named = [], []
    for i, (kind, row) in enumerate(drawn):
        row = ROUNDED[precision](row)
        if kind == "30 % masked":
            row[rng.permutation(classes)[: int(0.3 * classes)]] = -np.inf
        of = rng.permutation(np.flatnonzero(np.isfinite(row)))[:3]
        if kind.startswith("margin"):
            row[of[0]] = ROUNDED[precision](np.delete(row, of[0]).max() + float(kind.split()[1]))
        elif i % 2:
            of = np.append(row.argmax(), of[of != row.argmax()])[: len(of)]
        x.append(row)
        named.append(of)
    kinds = [kind for kind, _ in drawn]
    return Block(np.array(x), kinds, _margins(kinds), _beside(np.array(x), np.array(named)))


def numbers(precision):
    """Single logits, probabilities and log-probabilities over their domains, and binary targets."""
    rng = np.random.default_rng(SEEDS[precision])
    kinds = [f"scale {scale}" for scale in (0.001, 1, 3, 10, 30) for _ in range(400)]
    x = np.array([rng.normal(0, float(kind.split()[1])) for kind in kinds])
    y = rng.integers(0, 2, len(x)).astype(np.float64)
    for margin in range(81):
        for label in (0, 1):
            kinds.append(f"margin {margin}")
            x, y = np.append(x, (2 * label - 1) * (margin + rng.random())), np.append(y, label)
    x = ROUNDED[precision](x)
    if precision == "half":
        p = rng.integers(1, 256, len(x)) / 256
    else:
        spread = [rng.random(len(x)), 0.5 + rng.normal(0, 1e-3, len(x)), 10 ** rng.uniform(-30, 0, len(x))]
        p = np.choose(rng.integers(0, 3, len(x)), spread)
        p = np.clip(ROUNDED[precision](p), None, 1 - 2.0**-24)
    below = np.where(x == 0, -1.0, -abs(x))
    return Block(x, kinds, _margins(kinds), {"y": y, "p": p, "logp": below, "other": x[::-1].copy()})


def _eight_bits(x):
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def _margins(kinds):
    return np.array([float(kind.split()[1]) if kind.startswith("margin") else np.nan for kind in kinds])


def _beside(x, named):
    share = np.zeros_like(x)
    of_each = [0.75, 0.25] if named.shape[1] == 2 else [0.5, 0.25, 0.25]
    np.put_along_axis(share, named, np.broadcast_to(of_each, named.shape), axis=1)
    few = named[:, : max(1, named.shape[1] - 1)]
    classes = np.arange(x.shape[1])
    return {
        "target": named[:, 0],
        "share": share,
        "few": few,
        "few_share": np.broadcast_to([0.5, 0.25][: few.shape[1]], few.shape).copy(),
        "source": (1 + classes % 3) / 8,
        "prior": (1 + classes % 2) / 4,
    }
