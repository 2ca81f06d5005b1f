"""`find`: everything that is wrong with an evaluation, from its state alone, so that merged shards say the same."""

from lastlayer.measure import Evaluation
from lastlayer.report import claims, order, raw
from lastlayer.report.finding import SEVERITIES, Finding

OF_SCORES = (
    raw.nan_rows,
    raw.infinite_rows,
    raw.duplicated_rows,
    raw.saturated_scores,
    raw.tied_rows,
    raw.impossible_labels,
    raw.coarse_margin,
    raw.constant_class,
    raw.not_probabilities,
)
OF_PREDICTIONS = (order.class_order,)
OF_PROBABILITIES = (
    raw.logits_that_are_probabilities,
    raw.softmax_twice,
    claims.class_bias,
    claims.dead_class,
    claims.label_unseen,
    claims.confidence,
    claims.group_apart,
)

# What follows from a worse mistake is left out until that is mended: its own fix would be wrong advice.
CLAIMS = {"L401", "L403", "L404", "L501", "L502", "L503"}
FOLLOWS = {
    "L201": CLAIMS,
    "L202": CLAIMS,
    "L203": CLAIMS,
    "L204": CLAIMS,
    "L402": CLAIMS | {"L103", "L301", "L302"},
}


def find(evaluation: Evaluation) -> tuple[Finding, ...]:
    """All findings, worst first, then by code; none that follows from an error among them.

    The tests against chance (``L201`` in part, ``L202``, ``L204``, ``L4xx``, ``L5xx``) raise a false alarm on true
    probabilities in less than one evaluation in a thousand, all together. A ``margin`` claims no probabilities, so
    only its scores and its order are looked at.
    """
    rules = OF_SCORES
    if evaluation.means.weight:
        rules += OF_PREDICTIONS + (OF_PROBABILITIES if evaluation.kind != "margin" else (claims.too_few_rows,))
    else:
        rules += (claims.too_few_rows,)
    found = [finding for rule in rules if (finding := rule(evaluation))]
    mute = set().union(*(FOLLOWS.get(f.code, ()) for f in found if f.severity == "error"))
    told = [f for f in found if f.code not in mute]
    return tuple(sorted(told, key=lambda f: (-SEVERITIES.index(f.severity), f.code)))
