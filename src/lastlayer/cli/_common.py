"""What the commands share: their options, what they print where, and the exit codes."""

import enum
import functools
import json
import os
import re
import shlex
import sys
import threading
from contextlib import contextmanager

import click

from lastlayer._check import DataError

SCHEMA_VERSION = 1
_SLOW = 1.0  # seconds after which a terminal is shown a progress bar


class Exit(enum.IntEnum):
    """What the exit code says."""

    FINE = 0
    FOUND = 1  # a finding at or above --fail-on, or a --max exceeded
    USAGE = 2
    DATA = 3
    MISSING = 4
    INTERRUPTED = 130
    PIPE = 141  # as the shell says of a program that SIGPIPE ended


class Command(click.Command):
    """A command whose help begins with examples."""

    def __init__(self, *args, examples, **kwargs):
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_help_text(self, ctx, formatter):
        examples_first(self.examples, formatter)
        super().format_help_text(ctx, formatter)


def command(name, examples):
    """A function with a docstring as the command ``name``; every command has ``--json`` and ``--quiet``."""

    def decorate(function):
        function = click.option("-q", "--quiet", is_flag=True, help="No messages, only data and errors.")(function)
        function = click.option("--json", "as_json", is_flag=True, help="Print JSON (with schema_version).")(function)
        settings = {"help_option_names": ["-h", "--help"]}
        return click.command(name, cls=Command, examples=examples, context_settings=settings)(function)

    return decorate


def examples_first(examples, formatter):
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Kind(click.Choice):
    """One of the kinds of scores, with a hint for another word of the same meaning."""

    def __init__(self):
        from lastlayer.outputs import KINDS

        super().__init__(KINDS)

    def convert(self, value, param, ctx):
        from lastlayer.io import KIND_WORDS

        if value in KIND_WORDS:
            self.fail(f"no kind {value!r}. Did you mean {KIND_WORDS[value]}?", param, ctx)
        return super().convert(value, param, ctx)


def data_options(function):
    """Options that say how a file is read, gathered in one dictionary ``how`` for `lastlayer.load`."""
    from lastlayer.io import FORMATS
    from lastlayer.outputs import TASKS

    options = (
        click.option("--kind", type=Kind(), help="What the scores are, where their name does not say it."),
        click.option("--split", metavar="NAME", help="Read NAME_logits, NAME_target (or NAME_labels)."),
        click.option("--scores-key", metavar="NAME", help="The array or column (or start of columns) of the scores."),
        click.option("--target-key", metavar="NAME", help="The array or column of the target."),
        click.option("--target-file", metavar="FILE", help="A file that holds the target."),
        click.option("--task", type=click.Choice(TASKS), help="Where the shapes do not say it."),
        click.option("--format", type=click.Choice(FORMATS), help="Of the file, where its suffix does not say it."),
    )

    @functools.wraps(function)
    def gathered(**parameters):
        how = {name: parameters.pop(name) for name in _HOW}
        return function(how=how, **parameters)

    return functools.reduce(lambda f, option: option(f), reversed(options), gathered)


_HOW = ("kind", "split", "scores_key", "target_key", "target_file", "task", "format")


def how_again(how):
    """The data options as they were given, to repeat them in a command."""
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(value)}" for name, value in how.items() if value is not None
    )


def convention_option(function):
    from lastlayer.measure.convention import CONVENTIONS

    words = "Bin as a paper did, to reproduce its numbers under the same keys."
    return click.option("--convention", type=click.Choice(list(CONVENTIONS)), help=words)(function)


calibrator_option = click.option("--calibrator", metavar="FILE", help="Apply what `lastlayer fit` wrote.")
force_option = click.option("--force", is_flag=True, help="Replace a file that exists.")


def usage(message):
    """The complaint about flags: exit code 2."""
    return click.UsageError(message, click.get_current_context(silent=True))


def complain(error, ctx=None):
    """One line on stderr: what is wrong, and for a wrong call where help is."""
    text = one_line(str(error))
    if ctx is not None:
        text += f" (help: {ctx.command_path} --help)"
    click.echo(f"{_styled('error:', fg='red', bold=True)} {text}", err=True)


def in_flags(error):
    """The complaint about data as a command line says it: flags in the place of keyword arguments."""
    fix = error.fix and re.sub(r" \(in Python: [^()]*\)", "", error.fix)
    fix = fix and re.sub(r"\((\w+)='([\w.-]+)'\)", lambda m: f"(--{m[1].replace('_', '-')} {m[2]})", fix)
    return DataError(error.message, file=error.file, field=error.field, rows=error.rows, fix=fix)


def say(message):
    """A message on stderr, unless ``--quiet`` or ``--json``."""
    if not _silent():
        click.echo(message, err=True)


def suggest(line):
    """The command that usually comes next, unless another command (the demo) runs this one and says it itself."""
    context = click.get_current_context()
    if context.parent is None or context.parent.info_name != "demo":
        say(f"next: {line}")


def one_line(text):
    """Text that cannot break a line or move the cursor: file names and class names come from outside."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def shown(path):
    """A path as text that every encoding of ours can hold: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def emit(record):
    """A record as JSON on stdout; numbers that are not finite are null."""
    click.echo(json.dumps(_finite({"schema_version": SCHEMA_VERSION, **record}), indent=2, allow_nan=False))


def show(renderable):
    """Something rich can render, on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    # By click, since rich exits with 1 where nobody reads any more; whether there are colours, rich has decided.
    click.echo(captured.get(), nl=False, color=True)


def table(*columns):
    """An empty table; the columns whose name begins with ``>`` hold numbers."""
    from rich.table import Table

    empty = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        empty.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return empty


@contextmanager
def progress(what, total=None, unit=""):
    """Calling what it yields, with a number of steps, advances a bar: on stderr, on a terminal, after a second."""
    if _silent() or not sys.stderr.isatty():
        yield lambda steps=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    count = f"{{task.completed:,.0f}} of {total:,.0f} {unit}" if total else f"{{task.completed:,.0f}} {unit}"
    counted = [TextColumn(count), TextColumn("{task.fields[rate]}")] if total or unit else []
    left = [TimeRemainingColumn()] if total else []
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeElapsedColumn(), *left)
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total, rate="")
    timer = threading.Timer(_SLOW, bar.start)
    timer.start()

    def advance(steps=1):
        bar.advance(task, steps)
        speed = bar.tasks[0].speed
        bar.update(task, rate=f"{speed:,.0f} {unit}/s" if speed and unit else "")

    try:
        yield advance
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def _silent():
    parameters = click.get_current_context().params
    return parameters["quiet"] or parameters["as_json"]


def _styled(text, **style):
    return text if "NO_COLOR" in os.environ else click.style(text, **style)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
