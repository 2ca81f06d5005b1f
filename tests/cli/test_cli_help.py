"""Help is a test subject: every command and option has words, examples parse, and docs/cli.md is up to date."""

import pathlib
import shlex
import subprocess
import sys

import click
import numpy as np
import pytest

from lastlayer.cli import COMMANDS, main

ROOT = pathlib.Path(__file__).parents[2]
CONTEXT = click.Context(main, info_name="lastlayer")


def command(name) -> click.Command:
    found = main.get_command(CONTEXT, name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_words(run, name):
    assert (command(name).help or "").split("\n\n")[0] == COMMANDS[name]
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help[0].isupper() and parameter.help.endswith((".", ")")), (
                parameter.name
            )
    text = run(name, "--help").stdout
    assert text.index("Examples:") < text.index("Options:")
    assert run(name, "-h").stdout == text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_quiet(name):
    options = {flag for parameter in command(name).params for flag in parameter.opts}
    assert {"--json", "--quiet", "-q"} <= options


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(run, name):
    for text in (run("--help").stdout, run(name, "--help").stdout):
        assert max(map(len, text.splitlines())) <= 80
    assert "..." not in run("--help").stdout.split("Commands:")[1], "no summary is cut short"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_examples_parse(name):
    """Every example of the help is accepted by the parser of its command, and is of that command."""
    for line in command(name).examples.strip().splitlines():  # pyright: ignore
        words = shlex.split(line.split("   ")[0].split(" | ")[0])
        assert words[:2] == ["lastlayer", name]
        command(name).make_context(name, words[2:])


def test_the_version(run):
    from lastlayer import __version__

    assert run("--version").stdout == f"lastlayer, version {__version__}\n"


@pytest.mark.parametrize("page", ["cli.md", "laws.md"])
def test_the_generated_pages_are_up_to_date(page):
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert page not in done.stderr, done.stderr
    assert bool(done.stderr) == (done.returncode == 1)


def test_no_arguments_are_a_question(run):
    assert run().stdout == run("--help").stdout != ""


def test_the_costs_of_the_help_are_read(run, folder):
    import re

    help_ = run("decide", "--help").stdout
    (table,) = re.findall(r"^ +(,cat,dog,review\n(?: +\S+\n)+)", help_, re.MULTILINE)
    (folder / "costs.csv").write_text("".join(line.strip() + "\n" for line in table.splitlines()))
    rows = [[2.0, 0.0], [0.0, 2.0]]
    np.savez("two.npz", logits=rows, target=[0, 1], classes=["cat", "dog"])
    assert "2 rows, costs per pair" in run("decide", "two.npz", "--cost", "costs.csv").stdout
