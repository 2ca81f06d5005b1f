"""What the functions of `laws.ROWS` should give: the textbook formulas with 120 digits, where nothing needs care.

Every function takes a row (or one number) as a list of mpmath numbers and gives a list. Gradients are central
differences with a step of 1e-30, which at 120 digits is right to more than 40.
"""

import functools

import mpmath
from mpmath import mp

mp.dps = 120
STEP = mpmath.mpf(10) ** -30


def exact(values):
    """Floats as they are, with all their bits."""
    return [mpmath.mpf(float(v)) for v in values]


def logsumexp(x):
    return [mpmath.log(mpmath.fsum(mpmath.exp(v) for v in x))]


def scaled(x, temperature, base):
    """What softmax exponentiates; a masked class stays masked for a base below 1, too."""
    rate = mpmath.log(base) / temperature
    return [v if v == -mpmath.inf else v * rate for v in x]


def log_softmax(x, temperature=1, base=mpmath.e):
    x = scaled(x, temperature, base)
    top = max(x)
    x = [v - top for v in x] if top > -mpmath.inf else x  # so that a lone class has the logarithm 0
    (normaliser,) = logsumexp(x)
    return [v - normaliser for v in x]


def softmax(x, temperature=1, base=mpmath.e):
    weights = [mpmath.exp(v) for v in scaled(x, temperature, base)]
    total = mpmath.fsum(weights)
    return [w / total for w in weights]


def entropy(x):
    return [-mpmath.fsum(p * mpmath.log(p) for p in softmax(x) if p)]


def log_odds(x):
    first, *others = sorted(x, reverse=True)
    return [first - logsumexp(others)[0] if others else mpmath.inf]


def top2_gap(x):
    first, *others = sorted(x, reverse=True)
    return [first - others[0] if others else mpmath.inf]


def energy(x, temperature=1):
    return [-temperature * logsumexp([v / temperature for v in x])[0]]


def max_logit(x):
    return [max(x)]


def merge_logsumexp(x):
    return logsumexp(x)


def logsumexp_parts(x):
    return logsumexp(x)


def adjust_prior(x, source, target):
    return [v + mpmath.log(t / s) for v, s, t in zip(x, source, target, strict=True)]


def adjust_prior_of_shares(x, source, target):
    return [v + logit([target])[0] - logit([source])[0] for v in x]


def adjust_class_weight(x, class_weight):
    return [v - mpmath.log(w) for v, w in zip(x, class_weight, strict=True)]


def standardize(x, how="norm", temperature=1):
    there = [v for v in x if v != -mpmath.inf]
    mean = mpmath.fsum(there) / len(there) if how == "zscore" else 0
    count = len(there) if how == "zscore" else 1
    length = mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in there) / count)
    return [(v - mean) / (temperature * length) if length else v - mean for v in x]


def pool(x, how="log"):
    """Of the row and its half."""
    half = [v / 2 for v in x]
    if how == "linear":
        return [mpmath.log((a + b) / 2) for a, b in zip(softmax(x), softmax(half), strict=True)]
    return log_softmax([(a + b) / 2 for a, b in zip(log_softmax(x), log_softmax(half), strict=True)])


def mask(x, allowed):
    return [v if keep else -mpmath.inf for v, keep in zip(x, allowed, strict=True)]


def top_k(x, k, removed=-mpmath.inf):
    kept = sorted(range(len(x)), key=lambda i: -x[i])[:k]  # a stable sort: of equals the first come first
    return [v if i in kept else removed for i, v in enumerate(x)]


def gumbel_softmax(x, key, temperature=1):
    return softmax([v + gumbel(key, i) for i, v in enumerate(x)], temperature)


@functools.cache
def gumbel(key, column):
    """The Gumbel number of the first row: Threefry-2x32 with 20 rounds (Salmon et al. 2011), from its definition."""
    words = [key >> 32, key % 2**32]
    schedule = [*words, words[0] ^ words[1] ^ 0x1BD11BDA]
    a, b = schedule[0], (column + schedule[1]) % 2**32
    for turn in range(20):
        rotation = (13, 15, 26, 6, 17, 29, 16, 24)[turn % 8]
        a = (a + b) % 2**32
        b = ((b << rotation) | (b >> (32 - rotation))) % 2**32 ^ a
        if turn % 4 == 3:
            block = turn // 4 + 1
            a, b = (a + schedule[block % 3]) % 2**32, (b + schedule[(block + 1) % 3] + block) % 2**32
    v = (a + (b + mpmath.mpf("0.5")) / 2**32) / 2**32
    return -mpmath.log(-mpmath.log(v))


def straight_through(x):
    """Of the softmax of the row."""
    chosen = x.index(max(x))
    return [mpmath.mpf(i == chosen) for i in range(len(x))]


def sparsemax(x):
    return entmax(x, 2)


def entmax(x, alpha):
    """The threshold by halving until the support is known, then by Newton's method."""
    rate = alpha - 1
    largest = max(x)
    near = [rate * (v - largest) for v in x if rate * (v - largest) > -1]

    def excess(t):
        return mpmath.fsum((v - t) ** (1 / rate) for v in near if v > t) - 1

    low, high = mpmath.mpf(-1), mpmath.mpf(0)
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    t, support = low, [v for v in near if v > low]
    for _ in range(5):
        slope = mpmath.fsum((v - t) ** (1 / rate - 1) for v in support) / rate
        t += excess(t) / slope
    inside = [rate * (v - largest) - t for v in x]
    return [v ** (1 / rate) if v > 0 else mpmath.mpf(0) for v in inside]


def sigmoid(x):
    return [1 / (1 + mpmath.exp(-v)) for v in x]


def log_sigmoid(x):
    return [-mpmath.log(1 + mpmath.exp(-v)) for v in x]


def softplus(x):
    return [mpmath.log(1 + mpmath.exp(v)) for v in x]


def logit(x):
    return [mpmath.log(p / (1 - p)) for p in x]


def log1mexp(x):
    return [mpmath.log(1 - mpmath.exp(v)) for v in x]


def softcap(x, cap):
    return [cap * mpmath.tanh(v / cap) for v in x]


def cross_entropy(
    x,
    target,
    label_smoothing=0,
    class_weight=None,
    weighting="row",
    temperature=1,
    softcap=None,
    z_loss=0,
):
    """``target`` is a class, or a list with the probability of each."""
    if softcap is not None:
        x = [v if v == -mpmath.inf else softcap * mpmath.tanh(v / softcap) for v in x]
    x = [v / temperature for v in x]
    logp = log_softmax(x)
    hard = not isinstance(target, list)
    q = [mpmath.mpf(i == target) for i in range(len(x))] if hard else target
    weight = [mpmath.mpf(1)] * len(x) if class_weight is None else class_weight
    of_row = 1
    if class_weight is not None and weighting == "row":
        of_row = mpmath.fsum(share * w for share, w in zip(q, weight, strict=True))
    allowed = [v != -mpmath.inf for v in x]
    even = mpmath.mpf(label_smoothing) / sum(allowed)
    q = [(1 - label_smoothing) * share + even * free for share, free in zip(q, allowed, strict=True)]
    if weighting == "class":
        q = [share * w for share, w in zip(q, weight, strict=True)]
    loss = -mpmath.fsum(share * v for share, v in zip(q, logp, strict=True) if share)
    return [of_row * loss + z_loss * logsumexp(x)[0] ** 2]


def binary_cross_entropy(x, target):
    return [
        (y * mpmath.log(1 + mpmath.exp(-v)) if y else 0) + ((1 - y) * mpmath.log(1 + mpmath.exp(v)) if y != 1 else 0)
        for v, y in zip(x, target, strict=True)
    ]


def mean(x):
    return [mpmath.fsum(x) / len(x)]


def top_k_cross_entropy(x, index, remainder="together"):
    """With the probabilities 1/2 and 1/4 for the classes of ``index``."""
    p, q = softmax(x), [mpmath.mpf(1) / 2, mpmath.mpf(1) / 4][: len(index)]
    left, others = 1 - sum(q), [share for i, share in enumerate(p) if i not in index]
    if remainder == "renormalize":
        return [-mpmath.fsum(share * mpmath.log(p[i]) for share, i in zip(q, index, strict=True)) / sum(q)]
    named = -mpmath.fsum(share * mpmath.log(p[i]) for share, i in zip(q, index, strict=True))
    if remainder == "together":
        return [named - left * (mpmath.log(mpmath.fsum(others)) if any(others) else -mpmath.inf)]
    others = [share for share in others if share]
    mean = mpmath.fsum(mpmath.log(share) for share in others) / len(others) if others else -mpmath.inf
    return [named - left * mean]


def multilabel_cross_entropy(x, target):
    return [mpmath.fsum(binary_cross_entropy(x, target))]


def value(row, x, target=None):
    """The reference of `row` for one row of logits (or for a list of single numbers)."""
    return _function(row, len(x), target)(exact(x))


def gradient(row, x, cotangent, target=None):
    """The gradient of ``sum(cotangent * row(x))``."""
    function, x, slopes = _slope_function(row, len(x), cotangent, target), exact(x), []
    for i in range(len(x)):
        above, below = (_moved(x, (i,), (step,)) for step in (STEP, -STEP))
        slopes.append((function(above) - function(below)) / (2 * STEP))
    return slopes


def hessian(row, x, cotangent, target=None):
    """The second derivatives of ``sum(cotangent * row(x))``."""
    function, x = _slope_function(row, len(x), cotangent, target), exact(x)

    def second(i, j):
        corners = [a * b * function(_moved(x, (i, j), (a * STEP, b * STEP))) for a in (1, -1) for b in (1, -1)]
        return mpmath.fsum(corners) / (4 * STEP**2)

    return [[second(i, j) for j in range(len(x))] for i in range(len(x))]


def softmax_minus_onehot(row, target):
    """The gradient of cross-entropy in closed form, for rows too long for differences."""
    return [p - (i == target) for i, p in enumerate(softmax(exact(row)))]


def _moved(x, places, steps):
    x = list(x)
    for place, step in zip(places, steps, strict=True):
        x[place] += step
    return x


def _slope_function(row, classes, cotangent, target):
    """The single number that is differentiated."""
    function, cotangent = _function(row, classes, target, row.exact_slope), exact(cotangent)
    return lambda x: mpmath.fsum(c * y for c, y in zip(cotangent, function(x), strict=True))


def _function(row, classes, target, instead=None):
    """The reference of `row` for so many classes, as a function of the logits alone."""
    function = instead or row.exact or globals()[row.function.__name__]
    settings = {
        name: _number(setting(classes) if callable(setting) else setting) for name, setting in row.settings.items()
    }
    fixed = () if target is None else (_number(target),)
    return lambda x: function(x, *fixed, **settings)


def _number(value):
    """Floats and lists of floats with all their bits; classes and words as they are."""
    if hasattr(value, "__len__") and not isinstance(value, str):
        return [_number(v) for v in value]
    if isinstance(value, str):
        return value
    return mpmath.mpf(value) if isinstance(value, float) else int(value)
