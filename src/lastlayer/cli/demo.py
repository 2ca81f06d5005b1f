"""``lastlayer demo``: the main job on real handwritten digits, step by step."""

import contextlib
import io
import json
import re
import shlex
import textwrap
from pathlib import Path

import click

from lastlayer._check import DataError
from lastlayer.cli._common import command, emit, one_line, shown
from lastlayer.io import save
from lastlayer.train import digits

_EXAMPLES = """
lastlayer demo
lastlayer demo --out somewhere --seed 1
"""
_VALID, _TEST = "digits-valid.npz", "digits-test.npz"
_CALIBRATOR, _DECISIONS = "calibrator.json", "decisions.csv"
_PAGES = ("digits-valid.report.html", "digits-test.report.html")
_STEPS = (
    ("findings", "What is wrong with these scores?", f"check {_VALID}"),
    ("calibrator", "Fit a calibrator on the rows just checked.", f"fit {_VALID} -o {_CALIBRATOR}"),
    ("test", "Does it hold on rows that nothing has seen?", f"check {_TEST} --calibrator {_CALIBRATOR}"),
    (
        "decisions",
        "What to do with each row, where an error costs 10 and a review 1?",
        f"decide {_TEST} --calibrator {_CALIBRATOR} --cost wrong=10,review=1 -o {_DECISIONS}",
    ),
)


@command("demo", _EXAMPLES)
@click.option("--out", default="lastlayer-demo", metavar="DIR", show_default=True, help="Where its files go.")
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Of the split of the rows."
)
def demo(out, seed, as_json, quiet):
    """The whole journey on real handwritten digits.

    It trains, checks, fits, decides and reports. Each step prints the command it stands for, to be repeated on data of
    your own. The digits come with scikit-learn; nothing is downloaded. The files of an earlier demo in DIR are
    replaced.
    """
    folder = _prepared(Path(out))
    with contextlib.chdir(folder):
        valid, test = _train(seed, out, as_json)
        results = {name: _step(name, question, line, as_json) for name, question, line in _STEPS}
    pages = [str(folder / page) for page in _PAGES]
    if as_json:
        emit({"out": str(folder), "rows": {"valid": len(valid), "test": len(test)}, **results, "reports": pages})
        return
    click.echo(f"\nBefore and after, in a browser: {shown(pages[-1])}")


def _prepared(folder):
    """The folder, without the files of an earlier demo; a folder of something else keeps its own."""
    derived = [folder / name for name in (_CALIBRATOR, _DECISIONS)]
    there = [path for path in derived if path.exists()]
    if there and not (folder / _VALID).exists():
        raise DataError(
            "exists, and the folder is not that of an earlier demo.", file=there[0], fix="name another with --out DIR."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in there:
            path.unlink()
    except OSError as error:
        raise DataError(
            f"cannot be used: {error.strerror}.",
            file=shown(folder),
            fix="name a folder that may be written: --out DIR.",
        ) from None
    return folder


def _train(seed, out, as_json):
    valid, test = digits(seed)
    save(valid, _VALID)
    save(test, _TEST)
    if not as_json:
        click.echo("A linear classifier of 8 x 8 pictures of digits, trained on 200 of them.")
        _say_python("import lastlayer as ll")
        _say_python(f"valid, test = ll.train.digits(seed={seed})")
        _say_python(f'll.save(valid, "{_VALID}"); ll.save(test, "{_TEST}")')
        click.echo(f"{len(valid)} and {len(test)} rows that it has not seen, as logits with their digit.\n")
        _say_shell(f"cd {shlex.quote(one_line(out))}")
    return valid, test


def _step(name, question, line, as_json):
    """Run one command as a user would type it; with ``--json`` return what it prints."""
    arguments = shlex.split(line)
    context = click.get_current_context()
    if not as_json:
        click.echo(f"\n{question}")
        _say_shell(f"lastlayer {line}")
        _run(arguments, context)
        return None
    html = ["--html", _PAGES[("findings", "test").index(name)]] if name in ("findings", "test") else []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _run([*arguments, *html, "--json"], context)
    return json.loads(printed.getvalue())


def _run(arguments, context):
    command = context.parent.command.get_command(context, arguments[0])
    with command.make_context(arguments[0], arguments[1:], parent=context) as inner:
        command.invoke(inner)


def _say_python(line):
    click.echo(f">>> {line}")


def _say_shell(line):
    """A command as one types it, continued where 80 columns end, an option on the line of its value."""
    pairs = re.sub(r" (-\S+) (?!-)", " \\1\0", line)
    wrapped = textwrap.wrap(pairs, 76, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    click.echo("$ " + " \\\n".join(wrapped).replace("\0", " "))
