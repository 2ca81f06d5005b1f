"""``lastlayer report``: the page of data or of states."""

import click

from lastlayer.cli._common import calibrator_option, command, convention_option, data_options, force_option
from lastlayer.cli._reading import report_of, write_page

_EXAMPLES = """
lastlayer report test.npz --calibrator c.json   before and after
lastlayer report shard-*.state.npz -o all.html
"""
_OTHERWISE = "name another place with -o PATH, or replace the file with --force."


@command("report", _EXAMPLES)
@click.argument("files", metavar="FILE_OR_STATE...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="Where the page goes, instead of NAME.report.html here.")
@data_options
@calibrator_option
@convention_option
@force_option
def report(files, output, how, calibrator, convention, force, as_json, quiet):
    """The page of data or of states, one file that opens offline.

    It replaces an older page, and no other file. Its path is printed, and with --json the report as well, as by
    `check`.
    """
    found, _ = report_of(files, how, calibrator, convention)
    page = write_page(found, output, files, force, _OTHERWISE)
    if as_json:
        click.echo(found.to_json())
    elif output != "-":
        click.echo(page)
