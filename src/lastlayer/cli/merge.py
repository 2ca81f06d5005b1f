"""``lastlayer merge``: states of shards as the state of the whole."""

import shlex

import click

from lastlayer.cli._common import command, force_option, say, show, suggest, usage
from lastlayer.cli._reading import OF_STATES, sources, state_of
from lastlayer.io import atomic_writer
from lastlayer.report import Report

_EXAMPLES = """
lastlayer merge shard-*.state.npz
lastlayer merge shard-*.state.npz -o all.state.npz --html all.html
lastlayer merge shard-*.state.npz -o - | lastlayer report -
"""


@command("merge", _EXAMPLES)
@click.argument("files", metavar="STATE...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="Write the merged state; - for standard output.")
@click.option("--html", metavar="FILE", help="Write the page of the whole.")
@force_option
def merge(files, output, html, force, as_json, quiet):
    """Join the states of shards: the numbers of the whole.

    STATE is what `lastlayer check --state` wrote. States of one task, one set of classes and one convention merge, in
    any order and however the rows were cut.
    """
    if output == "-" and as_json:
        raise usage("-o - and --json both want standard output.")
    report = Report(state_of(files), sources(files), data=OF_STATES)
    page = None if html is None else report.to_html(html, force=force)
    if output is not None:
        with atomic_writer(output, force=force) as file:
            file.write(report.evaluation.to_bytes())
    if as_json:
        click.echo(report.to_json())
    elif output != "-":
        show(report)
    if page is not None:
        say(f"report: {page}")
    elif output not in (None, "-"):
        suggest(f"lastlayer report {shlex.quote(output)}")
