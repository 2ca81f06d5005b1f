"""``lastlayer check``: metrics with intervals, coded findings, and a page."""

import json
import shlex

import click

from lastlayer.cli._common import (
    Exit,
    calibrator_option,
    command,
    convention_option,
    data_options,
    force_option,
    say,
    show,
    suggest,
    usage,
)
from lastlayer.cli._reading import report_of, write_page
from lastlayer.io import atomic_writer
from lastlayer.measure.read import METRICS
from lastlayer.report.finding import SEVERITIES

_EXAMPLES = """
lastlayer check valid.npz
lastlayer check test.npz --calibrator c.json        before and after
lastlayer check shard-*.npz --state all.state.npz   one report, and its state
lastlayer check test.npz --json --fail-on error --max ece=0.05
lastlayer check scores.npy --kind logits --target-file labels.npy
"""
_OTHERWISE = "name another place with --html PATH, leave it out with --no-html, or replace the file with --force."


class Limit(click.ParamType):
    """``name=value`` for a metric, as a pair."""

    name = "NAME=VALUE"

    def convert(self, value, param, ctx):
        metric, _, number = value.partition("=")
        if metric not in METRICS:
            self.fail(f"{metric!r} is not a metric; they are {', '.join(METRICS)}.", param, ctx)
        try:
            return metric, float(number)
        except ValueError:
            self.fail(f"write {metric}=NUMBER, not {value!r}.", param, ctx)


@command("check", _EXAMPLES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@data_options
@calibrator_option
@convention_option
@click.option("--resume", metavar="FILE", help="Go on from the NAME.partial that an interrupted call wrote.")
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be read, and list them.")
@click.option("--state", metavar="FILE", help="Write the summed state, for `lastlayer merge`.")
@click.option(
    "--html", metavar="FILE", help="Where the page goes, instead of NAME.report.html here (also with --json)."
)
@click.option("--no-html", is_flag=True, help="Write no page.")
@click.option(
    "--fail-on",
    type=click.Choice([*SEVERITIES, "never"]),
    default="never",
    help="Exit 1 at findings this bad, or worse.",
)
@click.option("--max", "limits", type=Limit(), multiple=True, help="Exit 1 if a metric is above VALUE. Repeatable.")
@force_option
def check(
    files,
    how,
    calibrator,
    convention,
    resume,
    skip_bad,
    state,
    html,
    no_html,
    fail_on,
    limits,
    force,
    as_json,
    quiet,
):
    """Metrics with intervals, findings with their fixes, a page.

    Several files are shards of one data set: they are evaluated one by one and merged. FILE is npz, npy, safetensors,
    parquet, csv, tsv, jsonl, or - for standard input. npz, npy and parquet are read in blocks, so they may be larger
    than memory; an interrupted call says how to go on. With --json a page is written only where --html says.
    """
    if html is not None and no_html:
        raise usage("--html and --no-html contradict each other.")
    report, skipped = report_of(files, how, calibrator, convention, resume=resume, skip_bad=skip_bad)
    _known(limits, report.metrics)
    # The page first: it replaces itself, so that a call whose state was refused can be repeated.
    page = None if no_html or (as_json and html is None) else write_page(report, html, files, force, _OTHERWISE)
    if state is not None:
        with atomic_writer(state, force=force) as file:
            file.write(report.evaluation.to_bytes())
    if as_json:
        click.echo(report.to_json() if not skip_bad else json.dumps(report.to_dict() | {"skipped": skipped}, indent=2))
    elif state != "-":
        show(report)
    for complaint in skipped:
        click.echo(f"skipped: {complaint}", err=True)
    if page is not None:
        say(f"report: {page}")
    _suggest(report, files, calibrator)
    failed = _exceeded(limits, report.metrics) + _found(report.findings, fail_on)
    for reason in failed:
        click.echo(reason, err=True)
    if failed:
        click.get_current_context().exit(Exit.FOUND)


def _known(limits, metrics):
    for name, _ in limits:
        if name not in metrics:
            raise usage(f"--max {name}: not measured here; there are {', '.join(metrics)}.")


def _exceeded(limits, metrics):
    return [
        f"--max {name}={limit:g}: exceeded, {name} is {metrics[name]:.6g}"
        for name, limit in limits
        if not metrics[name] <= limit
    ]


def _found(findings, fail_on):
    if fail_on == "never":
        return []
    bad = [f for f in findings if SEVERITIES.index(f.severity) >= SEVERITIES.index(fail_on)]
    return [f"--fail-on {fail_on}: {', '.join(f'{f.code} {f.title}' for f in bad)}"] if bad else []


def _suggest(report, files, calibrator):
    if report.findings:
        suggest(f"lastlayer explain {report.findings[0].code}")
    elif len(files) == 1 and report.evaluation.kind != "margin":  # whose decisions wait for a calibrator of margins
        applied = "" if calibrator is None else f" --calibrator {shlex.quote(calibrator)}"
        suggest(f"lastlayer decide {report.data}{applied} --cost wrong=10,review=1")
