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
    code = _code(code)
    if as_json:
        emit({"code": code, "title": CODES[code].title, "page": page_of(code)})
    else:
        click.echo(page_of(code), nl=False)


def _code(word):
    """The code that is meant, by itself or by the title of its finding."""
    names = {c.code.lower(): c.code for c in CODES.values()} | {c.title: c.code for c in CODES.values()}
    if word.lower() in names:
        return names[word.lower()]
    near = difflib.get_close_matches(word.lower(), names, n=1)
    raise usage(f"no code {word!r}. {f'Did you mean {names[near[0]]}?' if near else '`lastlayer explain` lists them.'}")


def _list(as_json):
    if as_json:
        emit({"codes": [{"code": c.code, "title": c.title, "meaning": c.meaning} for c in CODES.values()]})
        return
    codes = table("code", "finding", "meaning")
    for c in CODES.values():
        codes.add_row(c.code, c.title, c.meaning)
    show(codes)
