"""The command line: one command per stage, each in a module of its own that is imported when it is named."""

import importlib
import io
import os
import sys
from contextlib import contextmanager

import click

from lastlayer import __version__
from lastlayer._check import DataError, MissingExtra
from lastlayer.cli._common import Exit, complain, examples_first, in_flags

# With the first sentence of each, so that `lastlayer --help` imports none of them; a test holds the two together.
COMMANDS = {
    "demo": "The whole journey on real handwritten digits.",
    "check": "Metrics with intervals, findings with their fixes, a page.",
    "fit": "Choose and fit a calibrator on held-out labelled rows.",
    "decide": "Accept the class of each row, or have the row reviewed.",
    "train": "A linear classifier of a table, calibrated, with its report.",
    "predict": "The classes of new rows, by what `lastlayer train` wrote.",
    "compare": "Two models on the same rows, with paired intervals.",
    "merge": "Join the states of shards: the numbers of the whole.",
    "report": "The page of data or of states, one file that opens offline.",
    "conformance": "A library through the cases of exact tails and special values.",
    "explain": "What the code of a finding means and what to do about it.",
}


class Commands(click.Group):
    """The group of commands: finds them by name, takes a file for ``check FILE``, and turns errors into exit codes."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, cmd_name):
        return getattr(importlib.import_module(f"lastlayer.cli.{cmd_name}"), cmd_name) if cmd_name in COMMANDS else None

    def parse_args(self, ctx, args):
        if not args:
            args = ["--help"]
        elif args[0] not in COMMANDS and _names_a_file(args[0]):
            args = ["check", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx, args):
        if args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The commands are {', '.join(COMMANDS)}."
            raise click.UsageError(f"no command and no file {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_help_text(self, ctx, formatter):
        examples_first(_EXAMPLES, formatter)
        super().format_help_text(ctx, formatter)

    def make_context(self, *args, **kwargs):
        with _written():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx):
        with _written():
            super().invoke(ctx)

    def main(self, args=None, prog_name="lastlayer", standalone_mode=True, **extra):
        for stream in (sys.stdout, sys.stderr):
            # A file name or class that the terminal's encoding lacks is printed with escapes, not refused.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.UsageError as error:
            complain(error.format_message(), error.ctx)
            code = Exit.USAGE
        except DataError as error:
            complain(in_flags(error))
            code = Exit.DATA
        except MissingExtra as error:
            complain(error)
            code = Exit.MISSING
        except click.Abort:  # Ctrl-C; click has ended the line
            code = Exit.INTERRUPTED
        sys.exit(code)


_EXAMPLES = """
lastlayer demo                                 see it all, on real digits
lastlayer check valid.npz                      metrics, findings, a page
lastlayer fit valid.npz -o c.json              probabilities that are true
lastlayer check test.npz --calibrator c.json   before and after
lastlayer decide test.npz --calibrator c.json --cost wrong=10,review=1
"""


@click.group("lastlayer", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="lastlayer", help="Show the version and exit.")
def main():
    """Everything between a model's last layer and the decision made from it.

    FILE alone means `check FILE`. Data goes to stdout, messages to stderr. Exit codes: 0 fine, 1 a finding at or above
    --fail-on or a --max exceeded, 2 usage, 3 bad data, 4 a missing extra.
    """


def _names_a_file(text):
    """Commands are plain words; what is there, has a suffix or a folder, or is standard input, is a file."""
    return text == "-" or (not text.startswith("-") and ("." in text or os.sep in text or os.path.exists(text)))


@contextmanager
def _written():
    """Leave without a word when nobody reads the output any more (``| head``), with one when its disk is full."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise
        # Python flushes the streams once more on its way out; let them go nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            os.dup2(nowhere, sys.stderr.fileno())
            raise click.exceptions.Exit(Exit.PIPE) from None
        raise DataError(f"could not be written: {error.strerror}.", file="standard output") from None
