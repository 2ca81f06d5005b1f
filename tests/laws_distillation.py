"""The rows of distillation in the table of laws, for a teacher of half the student's logits; `laws` says the rest."""

from lastlayer import loss, transform
from lastlayer.loss.distillation import distill
from reference_distillation import distill as exact
from table import Exempt, Row, Symmetry


def of_half(z, **more):
    return distill(z, z / 2, **more)


def exactly_of_half(z, **more):
    return exact(z, [v / 2 for v in z], **more)


FORWARD = Row(
    distill,
    call=of_half,
    exact=exactly_of_half,
    infinite=0.0,
    symmetry=Symmetry(
        "distill(z, t) = cross_entropy(z, softmax(t)) - entropy(t)",
        of_half,
        lambda z: loss.cross_entropy(z, transform.softmax(z / 2)) - transform.entropy(z / 2),
    ),
    half="float32",
    ulp=4,
    exempt={
        "order": Exempt(
            "student and teacher agree at a place in between",
            example=[[8.0, 0.0, 0.0]],
            instead={"order": "rises with each logit"},
        )
    },
)
ROWS = [
    FORWARD,
    FORWARD.variation(
        "Jensen-Shannon",
        settings={"kind": "jensen_shannon"},
        symmetry=Symmetry(
            "distill(z, t, kind=js) = distill(t, z, kind=js)",
            lambda z: distill(z, z / 2, kind="jensen_shannon"),
            lambda z: distill(z / 2, z, kind="jensen_shannon"),
        ),
        exempt=FORWARD.exempt,
    ),
]
