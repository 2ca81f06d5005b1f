"""``lastlayer compare``: two models on the same rows."""

import click

from lastlayer.cli._common import command, data_options, emit, progress, show, table, usage
from lastlayer.cli._reading import sources
from lastlayer.io import load
from lastlayer.measure.compare import compare as compare_outputs

_EXAMPLES = """
lastlayer compare old.npz new.npz
lastlayer compare old.npz new.npz --json | jq .differences.nll
"""


@command("compare", _EXAMPLES)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@data_options
def compare(a, b, how, as_json, quiet):
    """Two models on the same rows, with paired intervals.

    Every difference is B minus A: a negative one in nll, brier or ece is in favour of B. Rows are matched by id
    where both files have ids, else by their order.
    """
    if a == b == "-":
        raise usage("standard input holds one of the two at most.")
    first, second = load(a, **how), load(b, **how)
    with progress("comparing"):
        found = compare_outputs(first, second)
    if as_json:
        emit({"a": sources([a]), "b": sources([b]), **found.to_dict()})
        return
    click.echo(f"A {sources([a])}\nB {sources([b])}")
    differences = table("", ">A", ">B", ">B - A", ">95 % interval", "better")
    for name, d in found.differences.items():
        apart = d.difference
        ends = f"{apart.low:+.5f} .. {apart.high:+.5f}"
        differences.add_row(name, f"{d.a:.5f}", f"{d.b:.5f}", f"{apart:+.5f}", ends, d.better or "")
    show(differences)
    click.echo(f"A alone is right on {found.a_right:,} rows, B alone on {found.b_right:,}.")
    for count, what in (
        (found.skipped, "shared rows hold a nan, or nothing but -inf, and are left out"),
        (found.only_a, "rows are in A only"),
        (found.only_b, "rows are in B only"),
    ):
        if count:
            click.echo(f"{count:,} {what}.")
    click.echo(found.verdict)
