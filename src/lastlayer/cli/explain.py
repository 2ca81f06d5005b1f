"""``lastlayer explain``: what the code of a finding means."""

import difflib

import click

from lastlayer.cli._common import command, emit, show, table, usage
from lastlayer.report.explain import CODES
from lastlayer.report.explain import explain as page_of

_EXAMPLES = """
lastlayer explain         the list of codes
lastlayer explain L501
"""


@command("explain", _EXAMPLES)
@click.argument("code", required=False)
def explain(code, as_json, quiet):
    """What the code of a finding means and what to do about it.

    Without CODE, the list of codes.
    """
    if code is None:
        _list(as_json)
        return
    code = code.upper()
    if code not in CODES:
        near = difflib.get_close_matches(code, CODES, n=1)
        raise usage(f"no code {code!r}. {f'Did you mean {near[0]}?' if near else '`lastlayer explain` lists them.'}")
    if as_json:
        emit({"code": code, "title": CODES[code].title, "page": page_of(code)})
    else:
        click.echo(page_of(code), nl=False)


def _list(as_json):
    if as_json:
        emit({"codes": [{"code": c.code, "title": c.title, "meaning": c.meaning} for c in CODES.values()]})
        return
    codes = table("code", "finding", "meaning")
    for c in CODES.values():
        codes.add_row(c.code, c.title, c.meaning)
    show(codes)
