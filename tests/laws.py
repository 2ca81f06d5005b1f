"""One row per public function: those of ``transform`` here, those of ``loss`` in the files joined at the end.

A law (`table.LAWS`) is a promise by name, checked on every row that does not say why it is exempt: ``test_laws.py`` has
those of values, ``test_special_values.py`` of limits, ``test_accuracy.py`` of units in the last place, and
``test_gradients.py`` of derivatives. A row says what the function gives where the laws leave a choice. A public
function without a row fails the suite.

    shift        adding a constant to a row leaves the result ("same"), or adds that constant or takes it off
    permutation  reordering the classes reorders the result ("follows") or leaves it ("same")
    masked       a further class of -inf changes nothing; this is the result at that class, where there is one per class
    order        which way the result goes when a logit is raised
    empty        the result for a row of nothing but -inf; its gradient is 0
    infinite     the result for the row (inf, 0, inf), class 0 (or half 0, half 2) being the target
    ends         value and slope at the lower and the upper end of the domain of a number
    half         the dtype that float16 and bfloat16 come out in
    ulp          the worst error in units in the last place, of `unit` where the result itself can cancel to nothing
    slope_ulp    the same for the gradient; empty where the derivative itself cancels, and the bound is of the largest
                 entry of the row
    symmetry     an identity with another function, or with itself
"""

from dataclasses import replace
from math import inf, log, sqrt

import numpy as np

import laws_contrastive
import laws_distillation
import laws_imbalance
import laws_loss
import laws_margin
import laws_policy
import laws_ranking
import reference
from lastlayer import transform
from table import Exempt, Row, Symmetry, even, frequencies, gap, largest, share, widest

FAMILIES = (laws_imbalance, laws_margin, laws_distillation, laws_contrastive, laws_ranking, laws_policy)
FOUR = [[0.5, 0.25, 2.0, 1.0]] * 4


def merged(z):
    """The parts of each third class from the first, from the second and from the third, put together."""
    return transform.merge_logsumexp(*(transform.logsumexp_parts(z[..., i::3]) for i in range(min(3, z.shape[-1]))))


def gumbel_of_two(temperature):
    """The draw of key 0 for the first and the third class of three."""
    first, third = reference.softmax([reference.gumbel(0, 0), reference.gumbel(0, 2)], temperature)
    return float(first), 0.0, float(third)


SOFTMAX = Row(
    transform.softmax,
    gives="classes",
    permutation="follows",
    masked=0.0,
    infinite=(0.5, 0.0, 0.5),
    order="keeps the order of the classes",
    symmetry=Symmetry(
        "softmax([a, b])[1] = sigmoid(b - a)",
        lambda z: transform.softmax(z)[..., 1],
        lambda z: transform.sigmoid(z[..., 1] - z[..., 0]),
    ),
    ulp=5,
    shift_ulp=2,
)
LOG_SOFTMAX = Row(
    transform.log_softmax,
    gives="classes",
    permutation="follows",
    masked=-inf,
    infinite=(-log(2), -inf, -log(2)),
    order="keeps the order of the classes",
    symmetry=Symmetry(
        "log_softmax([a, b])[1] = log_sigmoid(b - a)",
        lambda z: transform.log_softmax(z)[..., 1],
        lambda z: transform.log_sigmoid(z[..., 1] - z[..., 0]),
    ),
    ulp=4,
    shift_ulp=2,
)
SPARSEMAX = Row(
    transform.sparsemax,
    gives="classes",
    permutation="follows",
    masked=0.0,
    infinite=(0.5, 0.0, 0.5),
    order="keeps the order of the classes",
    symmetry=Symmetry(
        "sparsemax([a, b])[1] = (1 + clip(b - a, -1, 1)) / 2",
        lambda z: transform.sparsemax(z)[..., 1],
        lambda z: (2 + abs(z[..., 1] - z[..., 0] + 1) - abs(z[..., 1] - z[..., 0] - 1)) / 4,
    ),
    ulp=4,
    kinks=True,
    curved=False,
)
POOL = Row(
    transform.pool,
    call=lambda z, **more: transform.pool([z, z / 2], **more),
    gives="classes",
    permutation="follows",
    masked=-inf,
    infinite=(-log(2), -inf, -log(2)),
    order="keeps the order of the classes",
    symmetry=Symmetry(
        "pool([z, z']) = log_softmax((z + z') / 2)",
        lambda z: transform.pool([z, z / 2]),
        lambda z: transform.log_softmax(0.75 * z),
    ),
    ulp=8,
)

ROWS = [
    SOFTMAX,
    SOFTMAX.variation(
        "temperature 0.7",
        settings={"temperature": 0.7},
        symmetry=Symmetry(
            "softmax(z, temperature=t) = softmax(z / t)",
            lambda z: transform.softmax(z, temperature=0.7),
            lambda z: transform.softmax(z / 0.7),
        ),
        ulp=8,
    ),
    SOFTMAX.variation(
        "base 2",
        settings={"base": 2.0},
        symmetry=Symmetry(
            "softmax(z, base=b) = softmax(z log(b))",
            lambda z: transform.softmax(z, base=2.0),
            lambda z: transform.softmax(z * log(2)),
        ),
        ulp=8,
    ),
    LOG_SOFTMAX,
    LOG_SOFTMAX.variation(
        "temperature 2.5",
        settings={"temperature": 2.5},
        symmetry=Symmetry(
            "log_softmax(z, temperature=t) = log_softmax(z / t)",
            lambda z: transform.log_softmax(z, temperature=2.5),
            lambda z: transform.log_softmax(z / 2.5),
        ),
        ulp=8,
    ),
    LOG_SOFTMAX.variation(
        "base 1/2",
        settings={"base": 0.5},
        infinite=(-inf, 0.0, -inf),
        symmetry=Symmetry(
            "log_softmax(z, base=1 / b) = log_softmax(-z, base=b)",
            lambda z: transform.log_softmax(z, base=0.5),
            lambda z: transform.log_softmax(-z, base=2.0),
        ),
        ulp=8,
        exempt={
            "order": Exempt(
                "with a base below 1 the smallest logit is the most probable class",
                example=[[1.0, 0.0]],
                instead={"order": "keeps the order of the classes"},
            )
        },
    ),
    Row(
        transform.logsumexp,
        shift="adds",
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "logsumexp([a, b]) = a + softplus(b - a)",
            transform.logsumexp,
            lambda z: z[..., 0] + transform.softplus(z[..., 1] - z[..., 0]),
        ),
        ulp=2,
        unit=largest,
        slope_ulp=5,
    ),
    Row(
        transform.logsumexp_parts,
        half="float32",
        call=lambda z, **more: transform.logsumexp_parts(z, **more).value(),
        shift="adds",
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "1 + logsumexp_parts([a, b]).rest = 1 / sigmoid(|a - b|)",
            lambda z: 1 + transform.logsumexp_parts(z).rest,
            lambda z: 1 / transform.sigmoid(abs(z[..., 0] - z[..., 1])),
        ),
        ulp=2,
        unit=largest,
        slope_ulp=5,
    ),
    Row(
        transform.merge_logsumexp,
        half="float32",
        call=lambda z, **more: merged(z).value(),
        shift="adds",
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "merge_logsumexp(parts of a, parts of b) = logsumexp([a, b])",
            lambda z: merged(z).value(),
            transform.logsumexp,
        ),
        ulp=2,
        unit=largest,
        slope_ulp=5,
    ),
    Row(
        transform.energy,
        variant="temperature 2.5",
        settings={"temperature": 2.5},
        shift="takes off",
        empty=inf,
        infinite=-inf,
        order="falls with each logit",
        symmetry=Symmetry(
            "energy(z, temperature=t) = -t logsumexp(z / t)",
            lambda z: transform.energy(z, temperature=2.5),
            lambda z: -2.5 * transform.logsumexp(z / 2.5),
        ),
        ulp=8,
        unit=largest,
    ),
    Row(
        transform.max_logit,
        shift="adds",
        empty=-inf,
        infinite=inf,
        order="rises with each logit",
        symmetry=Symmetry(
            "max_logit([a, b]) = b + max(a - b, 0)",
            transform.max_logit,
            lambda z: (z[..., 0] + z[..., 1] + abs(z[..., 0] - z[..., 1])) / 2,
        ),
        ulp=0,
        slope_ulp=1,
        kinks=True,
        curved=False,
        nan_slopes=1,
    ),
    Row(
        transform.entropy,
        infinite=log(2),
        order="falls with the largest logit",
        symmetry=Symmetry(
            "entropy([a, b]) = softplus(b - a) - (b - a) sigmoid(b - a)",
            transform.entropy,
            lambda z: (
                transform.softplus(z[..., 1] - z[..., 0])
                - (z[..., 1] - z[..., 0]) * transform.sigmoid(z[..., 1] - z[..., 0])
            ),
        ),
        ulp=4,
        shift_ulp=2,
    ),
    Row(
        transform.row_stats,
        variant="entropy",
        call=lambda z: transform.row_stats(z, ("entropy",))["entropy"],
        exact=reference.entropy,
        infinite=log(2),
        half="float32",
        order="falls with the largest logit",
        symmetry=Symmetry(
            "row_stats(z)['entropy'] = entropy(z)",
            lambda z: transform.row_stats(z)["entropy"],
            transform.entropy,
        ),
        ulp=4,
        shift_ulp=2,
    ),
    Row(
        transform.row_stats,
        variant="logp",
        target="index",
        call=lambda z, target: transform.row_stats(z, ("logp",), target)["logp"],
        exact=lambda x, target: [reference.log_softmax(x)[target]],
        infinite=-log(2),
        half="float32",
        order="rises with the logit of the target",
        symmetry=Symmetry(
            "row_stats([a, b], 1)['logp'] = log_sigmoid(b - a)",
            lambda z: transform.row_stats(z, ("logp",), np.ones(z.shape[:-1], int))["logp"],
            lambda z: transform.log_sigmoid(z[..., 1] - z[..., 0]),
        ),
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        transform.log_odds,
        infinite=0.0,
        order="rises with the largest logit",
        symmetry=Symmetry(
            "log_odds([a, b], 1) = b - a", lambda z: transform.log_odds(z, 1), lambda z: z[..., 1] - z[..., 0]
        ),
        ulp=4,
        unit=gap,
        slope_ulp=5,
        kinks=True,
    ),
    Row(
        transform.top2_gap,
        infinite=0.0,
        order="rises with the largest logit",
        symmetry=Symmetry("top2_gap([a, b]) = |b - a|", transform.top2_gap, lambda z: abs(z[..., 1] - z[..., 0])),
        ulp=1,
        slope_ulp=1,
        kinks=True,
        curved=False,
        nan_slopes=2,
    ),
    Row(
        transform.sigmoid,
        takes="number",
        gives="number",
        order="rises",
        ends=((0.0, 0.0), (1.0, 0.0)),
        symmetry=Symmetry(
            "sigmoid(-z) = 1 - sigmoid(z)", lambda z: transform.sigmoid(-z), lambda z: 1 - transform.sigmoid(z)
        ),
        ulp=3,
        slope_ulp=5,
    ),
    Row(
        transform.log_sigmoid,
        takes="number",
        gives="number",
        order="rises",
        ends=((-inf, 1.0), (0.0, 0.0)),
        symmetry=Symmetry(
            "log_sigmoid(z) - log_sigmoid(-z) = z",
            lambda z: transform.log_sigmoid(z) - transform.log_sigmoid(-z),
            lambda z: z,
        ),
        ulp=3,
        slope_ulp=4,
    ),
    Row(
        transform.softplus,
        takes="number",
        gives="number",
        order="rises",
        ends=((0.0, 0.0), (inf, 1.0)),
        symmetry=Symmetry(
            "softplus(z) - softplus(-z) = z", lambda z: transform.softplus(z) - transform.softplus(-z), lambda z: z
        ),
        ulp=3,
        slope_ulp=4,
    ),
    Row(
        transform.logit,
        takes="number",
        gives="number",
        domain=(0, 1),
        order="rises",
        ends=((-inf, inf), (inf, inf)),
        symmetry=Symmetry(
            "logit(p) = log(p) - log1mexp(log(p)) = -logit(1 - p)",
            transform.logit,
            lambda p: -transform.logit(1 - p),
        ),
        ulp=4,
        slope_ulp=4,
    ),
    Row(
        transform.log1mexp,
        takes="number",
        gives="number",
        domain=(-inf, 0),
        order="falls",
        ends=((0.0, 0.0), (-inf, -inf)),
        symmetry=Symmetry(
            "log1mexp(log_sigmoid(z)) = log_sigmoid(-z)",
            lambda z: transform.log1mexp(transform.log_sigmoid(z)),
            lambda z: transform.log_sigmoid(-z),
        ),
        ulp=4,
        xla_ulp=8,
        slope_ulp=6,
    ),
    Row(
        transform.softcap,
        takes="number",
        gives="number",
        settings={"cap": 30.0},
        order="rises",
        ends=((-inf, 0.0), (30.0, 0.0)),
        symmetry=Symmetry(
            "softcap(-z) = -softcap(z)", lambda z: transform.softcap(-z, 30.0), lambda z: -transform.softcap(z, 30.0)
        ),
        ulp=4,
    ),
    Row(
        transform.logaddexp,
        takes="number",
        gives="number",
        variant="with 0 on the right",
        call=lambda z: transform.logaddexp(z, 0.0),
        exact=reference.softplus,
        order="rises",
        ends=((0.0, 0.0), (inf, 1.0)),
        symmetry=Symmetry(
            "logaddexp(z, 1) = 1 + softplus(z - 1)",
            lambda z: transform.logaddexp(z, 1.0),
            lambda z: 1 + transform.softplus(z - 1),
        ),
        ulp=3,
        slope_ulp=4,
    ),
    Row(
        transform.mask,
        gives="classes",
        target="binary",
        call=lambda z, allowed: transform.mask(z, allowed == 1),
        exact_slope=lambda x, allowed: [v * keep for v, keep in zip(x, allowed, strict=True)],
        shift="adds",
        permutation="follows",
        masked=-inf,
        empty=-inf,
        infinite=(inf, -inf, inf),
        order="a class rises with its logit",
        symmetry=Symmetry(
            "softmax(mask([a, b], [False, True])) = [0, 1]",
            lambda z: transform.softmax(transform.mask(z, np.array([False, True])))[..., 1],
            lambda z: z[..., 0] * 0 + 1,
        ),
        ulp=0,
        curved=False,
        exempt={
            "nan": Exempt(
                "a class taken out is gone, whatever it held", FOUR, [[1, 0, 0, 0]] * 4, instead={"nan": "entry"}
            ),
            "gradient of a shift": Exempt("a class taken out does not move", [[1.0, 2.0]], [[1, 0]]),
            "gradient of a nan": Exempt(
                "as without it, the slope of an entry is 1", example=FOUR, target=[[1] * 4] * 4
            ),
        },
    ),
    Row(
        transform.top_k,
        settings={"k": 2},
        exact_slope=lambda x, k: reference.top_k(x, k, removed=0),
        gives="classes",
        shift="adds",
        permutation="follows",
        masked=-inf,
        empty=-inf,
        infinite=(inf, -inf, inf),
        order="a class rises with its logit",
        symmetry=Symmetry(
            "logsumexp(top_k(z, 1)) = max_logit(z)",
            lambda z: transform.logsumexp(transform.top_k(z, 1)),
            transform.max_logit,
        ),
        ulp=0,
        curved=False,
        exempt={"gradient of a shift": Exempt("a class taken out does not move", [[3.0, 2.0, 1.0]])},
    ),
    Row(
        transform.adjust_prior,
        settings={"source": frequencies, "target": even},
        gives="classes",
        shift="adds",
        permutation="follows",
        masked=-inf,
        empty=-inf,
        infinite=(inf, log(2), inf),
        order="a class rises with its logit",
        symmetry=Symmetry(
            "adjust_prior(adjust_prior(z, p, q), q, p) = z",
            lambda z: transform.adjust_prior(transform.adjust_prior(z, [0.1, 0.9], [0.5, 0.5]), [0.5, 0.5], [0.1, 0.9]),
            lambda z: z,
        ),
        ulp=2,
        unit=widest,
        curved=False,
        nan="entry",
        exempt={
            "permutation": Exempt("a prior belongs to its class", example=[[0.0, 1.0, 2.0]]),
            "gradient of a nan": Exempt("as without it, the slope of an entry is 1", example=FOUR),
        },
    ),
    Row(
        transform.adjust_prior,
        variant="shares of the positive class",
        settings={"source": 0.25, "target": 0.5},
        exact=reference.adjust_prior_of_shares,
        takes="number",
        gives="number",
        order="rises",
        ends=((-inf, 0.0), (inf, 1.0)),
        symmetry=Symmetry(
            "adjust_prior(z, s, t) = z + logit(t) - logit(s)",
            lambda z: transform.adjust_prior(z, 0.25, 0.5),
            lambda z: z + float(transform.logit(0.5) - transform.logit(0.25)),
        ),
        ulp=4,
        slope_ulp=1,
        curved=False,
        exempt={"gradient of a nan": Exempt("as without it, the slope of a logit is 1", example=FOUR)},
    ),
    Row(
        transform.adjust_class_weight,
        settings={"class_weight": frequencies},
        gives="classes",
        shift="adds",
        permutation="follows",
        masked=-inf,
        empty=-inf,
        infinite=(inf, log(4), inf),
        order="a class rises with its logit",
        symmetry=Symmetry(
            "adjust_class_weight(z, w) = adjust_prior(z, w, (1, 1))",
            lambda z: transform.adjust_class_weight(z, [0.5, 3.0]),
            lambda z: transform.adjust_prior(z, [0.5, 3.0], [1.0, 1.0]),
        ),
        ulp=2,
        unit=widest,
        curved=False,
        nan="entry",
        exempt={
            "permutation": Exempt("a weight belongs to its class", example=[[0.0, 1.0, 2.0]]),
            "gradient of a nan": Exempt("as without it, the slope of an entry is 1", example=FOUR),
        },
    ),
    Row(
        transform.standardize,
        settings={"temperature": 0.5},
        gives="classes",
        permutation="follows",
        masked=-inf,
        infinite=(sqrt(2), 0.0, sqrt(2)),
        order="keeps the order of the classes",
        symmetry=Symmetry(
            "standardize(2 z) = standardize(z)",
            lambda z: transform.standardize(2 * z),
            transform.standardize,
        ),
        ulp=4,
        exempt={
            "shift": Exempt("the length is that of the logits themselves", example=[[1.0, 0.0]]),
            "gradient of a shift": Exempt("the length is that of the logits themselves", example=[[1.0, 0.0]]),
        },
    ),
    Row(
        transform.standardize,
        variant="zscore",
        settings={"how": "zscore"},
        gives="classes",
        permutation="follows",
        masked=-inf,
        infinite=(sqrt(0.5), -sqrt(2), sqrt(0.5)),
        order="keeps the order of the classes",
        symmetry=Symmetry(
            "standardize(-z, how='zscore') = -standardize(z, how='zscore')",
            lambda z: transform.standardize(-z, how="zscore"),
            lambda z: -transform.standardize(z, how="zscore"),
        ),
        ulp=4,
        unit=lambda row: 1.0,  # the spread
    ),
    POOL,
    POOL.variation(
        "linear",
        settings={"how": "linear"},
        symmetry=Symmetry(
            "pool([z, z'], 'linear') = log((softmax(z) + softmax(z')) / 2)",
            lambda z: transform.softmax(transform.pool([z, z / 2], how="linear")),
            lambda z: (transform.softmax(z) + transform.softmax(z / 2)) / 2,
        ),
    ),
    SPARSEMAX,
    *(
        SPARSEMAX.variation(
            f"alpha {alpha}",
            function=transform.entmax,
            settings={"alpha": alpha},
            symmetry=Symmetry("entmax(z, 2) = sparsemax(z)", lambda z: transform.entmax(z, 2), transform.sparsemax),
            ulp=ulp,
            unit=unit,
            curved=True,
        )
        for alpha, ulp, unit in ((1.2, 24, share), (1.5, 2, None), (3.0, 8, None))
    ),
    Row(
        transform.gumbel_softmax,
        target="key",
        settings={"temperature": 0.5},
        gives="classes",
        permutation="follows",
        masked=0.0,
        infinite=gumbel_of_two(0.5),
        order="a class rises with its logit",
        symmetry=Symmetry(
            "gumbel_softmax([a, b], key)[1] = sigmoid(b - a + logit(gumbel_softmax([0, 0], key)[1]))",
            lambda z: transform.gumbel_softmax(z, 3)[..., 1],
            lambda z: transform.sigmoid(
                z[..., 1] - z[..., 0] + transform.logit(transform.gumbel_softmax(0 * z, 3)[..., 1])
            ),
        ),
        ulp=2,  # the noise is added to logits of up to 100, so a small share has the digits of that sum alone
        unit=lambda row: 1.0,
        exempt={
            "permutation": Exempt("the draw of a class is that of its place", example=[[0.0, 1.0, 2.0]], target=[7])
        },
    ),
    Row(
        transform.straight_through,
        variant="of softmax",
        call=lambda z, **more: transform.straight_through(transform.softmax(z, **more), **more),
        exact_slope=reference.softmax,
        gives="classes",
        permutation="follows",
        masked=0.0,
        infinite=(1.0, 0.0, 0.0),
        order="keeps the order of the classes",
        symmetry=Symmetry(
            "straight_through(softmax([a, b]))[1] (b - a) = max(b - a, 0)",
            lambda z: transform.straight_through(transform.softmax(z))[..., 1] * (z[..., 1] - z[..., 0]),
            lambda z: (z[..., 1] - z[..., 0] + abs(z[..., 1] - z[..., 0])) / 2,
        ),
        ulp=0,
        exempt={"permutation": Exempt("of equal classes the first is chosen", example=[[1.0, 1.0, 0.0]])},
    ),
    *laws_loss.ROWS,
    # made of what is measured above over 1,000 classes
    *(replace(row, longest=100) for family in FAMILIES for row in family.ROWS),
]
