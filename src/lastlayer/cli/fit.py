"""``lastlayer fit``: choose and fit a calibrator on held-out rows."""

import json
import shlex

import click

from lastlayer.calibrate import METHODS
from lastlayer.calibrate import fit as fit_calibrator
from lastlayer.calibrate.selection import AS_GOOD, NO_BETTER, WORSE
from lastlayer.cli._common import (
    command,
    data_options,
    emit,
    force_option,
    progress,
    show,
    suggest,
    table,
    usage,
)
from lastlayer.cli._reading import on_command_line, sources
from lastlayer.io import load
from lastlayer.measure.metric import Z95

_EXAMPLES = """
lastlayer fit valid.npz -o c.json
lastlayer fit shard-*.npz -o c.json
lastlayer fit logits.npz --split val --method temperature -o c.json
lastlayer fit valid.npz --by site -o c.json
"""


@command("fit", _EXAMPLES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="Write the calibrator (JSON); - for standard output.")
@click.option(
    "--method",
    type=click.Choice(["auto", *METHODS]),
    metavar="METHOD",
    default="auto",
    show_default=True,
    help=f"Auto tries several; or one of {', '.join(METHODS)}.",
)
@click.option("--by", metavar="GROUP", help="A calibrator for each group of group_GROUP; label: for each label.")
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Of the cross-validation."
)
@data_options
@force_option
def fit(files, output, method, by, seed, how, force, as_json, quiet):
    """Choose and fit a calibrator on held-out labelled rows.

    The rows are ones that the model was not trained on. `auto` takes the simplest method whose cross-validated loss is
    not significantly above the best, and identity where nothing helps. Without -o it only shows what it would choose.
    """
    if output == "-" and as_json:
        raise usage("-o - and --json both want standard output; the calibrator is JSON itself.")
    with progress("fitting"):
        calibrator = fit_calibrator([load(file, **how) for file in files], method, by=by, seed=seed)
    if output is not None:
        calibrator.save(output, force=force)
    if as_json:
        emit({"source": sources(files), "output": output, "calibrator": json.loads(calibrator.to_json())})
    elif output != "-":
        _show(calibrator, output)
    if output is None:
        data = on_command_line(files, how)
        suggest(f"lastlayer fit {data} -o calibrator.json, to keep it")
    elif output != "-":
        suggest(f"lastlayer check TEST --calibrator {shlex.quote(output)}, on rows that nothing was fitted on")


def _show(calibrator, output):
    if calibrator.selection:
        click.echo("cross-validated on the same rows:")
        tried = table("method", ">nll", ">above", ">95 % interval", ">time", "")
        untried: dict[str, list[str]] = {}
        for t in calibrator.selection:
            if t.verdict.startswith("not tried"):
                untried.setdefault(t.verdict, []).append(t.method)
            else:
                tried.add_row(t.method, *_cells(t), _VERDICTS.get(t.verdict, t.verdict))
        show(tried)
        for reason, methods in untried.items():
            click.echo(f"{reason} ({', '.join(methods)})")
    done = calibrator.certificate
    click.echo(str(calibrator))
    if done is not None:
        click.echo(
            f"nll {done.nll_before:.6f} -> {done.nll_after:.6f} on the {calibrator.fitted_on.rows:,} rows of the fit"
        )
        if not done.converged:
            click.echo(f"not converged after {done.iterations} steps: see `certificate`")
        if done.bound is not None:
            click.echo(f"it ran into its bound: {done.bound}")
        left_out = {
            "with nan": done.nan_rows,
            "infinite": done.infinite_rows,
            "with probability 0 on the target": done.impossible_rows,
        }
        if any(left_out.values()):
            click.echo(
                "left out: " + ", ".join(f"{n} rows {what}" for what, n in left_out.items() if n) + _numbered(done)
            )
    if output is not None:
        click.echo(f"saved {output}")


_VERDICTS = {WORSE: "worse", AS_GOOD: "as good", NO_BETTER: "no gain"}


def _cells(trial):
    if not trial.difference:
        return f"{trial.nll:.6f}", "0", "", f"{trial.seconds:.2f}s"
    low, high = (trial.difference + sign * Z95 * trial.difference_error for sign in (-1, 1))
    return f"{trial.nll:.6f}", f"{trial.difference:.6f}", f"{low:.4f} to {high:.4f}", f"{trial.seconds:.2f}s"


def _numbered(done):
    more = done.nan_rows + done.infinite_rows + done.impossible_rows - len(done.first_left_out)
    return f"\n          rows {', '.join(map(str, done.first_left_out))}" + (f" and {more} more" if more else "")
