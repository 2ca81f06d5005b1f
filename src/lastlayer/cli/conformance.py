"""``lastlayer conformance``: libraries through the cases of exact tails and special values."""

import collections
import fnmatch
import textwrap

import click

from lastlayer.cli._common import Exit, command, emit, progress, show, table, usage
from lastlayer.conformance import CASES, SUBJECTS, run, subjects

_EXAMPLES = """
lastlayer conformance                        ourselves, on NumPy, torch, JAX
lastlayer conformance torch scipy jax        libraries side by side
lastlayer conformance torch --case '*/right-by-20/*' --verbose
lastlayer conformance --max differs=0        exit 1 if a case differs
"""
_COLUMNS = 5  # libraries that fit beside the groups in 80 columns
_FIRST = 10  # kinds of failures of a library that are listed without --verbose
_WIDTH = 80


class Limit(click.ParamType):
    """``differs=N``, as the number."""

    name = "differs=N"

    def convert(self, value, param, ctx):
        name, _, number = value.partition("=")
        if name != "differs" or not number.isdecimal():
            self.fail(f"write differs=N with a whole number, not {value!r}.", param, ctx)
        return int(number)


@command("conformance", _EXAMPLES)
@click.argument("names", metavar="[SUBJECT]...", nargs=-1, type=click.Choice(list(SUBJECTS)))
@click.option("--case", "pattern", metavar="PATTERN", help="Only cases whose name matches, as in '*/float64'.")
@click.option("-v", "--verbose", is_flag=True, help="List every failing case, not one of each kind.")
@click.option("--max", "limit", type=Limit(), help="Exit 1 if more than N cases of a library differ.")
def conformance(names, pattern, verbose, limit, as_json, quiet):
    """A library through the cases of exact tails and special values.

    SUBJECT is torch, scipy, jax, optax, sklearn, torchmetrics or lastlayer (the default, on every array library that is
    installed). A cell is how many cases pass, of those the library offers; an error counts as one that differs.
    """
    cases = [case for case in CASES if pattern is None or fnmatch.fnmatchcase(case.name, pattern)]
    if not cases:
        raise usage(f"--case {pattern}: no case has such a name. They look like {CASES[0]}.")
    chosen = [subject for name in names or ("lastlayer",) for subject in subjects(name)]
    results = []
    with progress("conformance", total=len(chosen)) as advance:
        for subject in chosen:
            results.append(run(subject, cases))
            advance()
    if as_json:
        emit({"cases": len(cases), "subjects": [_record(result) for result in results]})
    else:
        _print(results, verbose)
    exceeded = [r for r in results if limit is not None and len(r.failures) > limit]
    for result in exceeded:
        click.echo(f"--max differs={limit}: exceeded, {len(result.failures)} differ on {result.subject}", err=True)
    if exceeded:
        click.get_current_context().exit(Exit.FOUND)


def _record(result):
    failures = [
        {
            "case": outcome.case.name,
            "verdict": outcome.verdict,
            "came": outcome.came,
            "exact": outcome.exact,
            "wrong": outcome.case.wrong,
            "threads": list(outcome.case.threads),
        }
        for outcome in result.failures
    ]
    groups = {group: {"passed": passed, "offered": offered} for group, (passed, offered) in result.counts().items()}
    return {"name": result.subject, "versions": result.versions, "groups": groups, "failures": failures}


def _print(results, verbose):
    versions = {f"{name} {version}": None for result in results for name, version in result.versions.items()}
    click.echo(_wrapped(", ".join(versions)) + "\n")
    for start in range(0, len(results), _COLUMNS):
        _grid(results[start : start + _COLUMNS])
    for result in results:
        _failures(result, verbose)


def _grid(results):
    grid = table("group", *(f">{result.subject}" for result in results))
    grid.columns[0].no_wrap = True
    sizes = collections.Counter(outcome.case.group for outcome in results[0].outcomes)
    counts = [result.counts() for result in results]
    for group, size in sizes.items():
        grid.add_row(f"{group} ({size})", *(_cell(*count[group]) for count in counts))
    totals = (map(sum, zip(*count.values(), strict=True)) for count in counts)
    grid.add_row(f"all ({sizes.total()})", *(_cell(*total) for total in totals), style="bold")
    show(grid)
    click.echo()


def _cell(passed, offered):
    return f"{passed}/{offered}" if offered else "-"


def _failures(result, verbose):
    """What differs, kind by kind: cases that one sentence is about are of a kind."""
    kinds = {}
    for outcome in result.failures:
        kinds.setdefault(outcome.case.wrong, []).append(outcome)
    click.echo(f"{result.subject}: {len(result.failures)} differ" if kinds else f"{result.subject}: none differ")
    for wrong, outcomes in list(kinds.items())[: None if verbose else _FIRST]:
        threads = outcomes[0].case.threads
        text = wrong + (f" ({', '.join(threads)})" if threads else "")
        click.echo("\n" + _wrapped(text, "  "))
        for outcome in outcomes if verbose else outcomes[:1]:
            more = f", and {len(outcomes) - 1} more" if len(outcomes) > 1 and not verbose else ""
            click.echo(f"    {outcome.case.name}{more}")
            click.echo(f"      {_cut(outcome.came)}, exact {_cut(outcome.exact)}")
    if len(kinds) > _FIRST and not verbose:
        click.echo(f"\n  more kinds: {len(kinds) - _FIRST}; --verbose lists every case")
    click.echo()


def _wrapped(text, indent=""):
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _cut(text):
    """At most as much of a result as leaves room for another on the line."""
    return text if len(text) <= 33 else f"{text[:30]}..."
