"""What needs a process of its own: stdin, pipes, colours, encodings, interrupts, and what is imported when."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

HEAVY = ("numba", "sklearn", "scipy", "torch", "jax", "pandas", "pyarrow", "matplotlib", "rich", "jinja2")


def test_data_on_stdout_messages_on_stderr(shell, folder):
    done = shell("check", "valid.npz")
    assert done.returncode == 0
    assert b"over-confident" in done.stdout and b"report:" not in done.stdout
    assert done.stderr == b"report: valid.report.html\nnext: lastlayer explain L501\n"


def test_standard_input_is_read(shell, folder):
    data = (folder / "valid.npz").read_bytes()
    found, expected = shell("check", "-", "--json", input=data), shell("check", "valid.npz", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["metrics"] == json.loads(expected.stdout)["metrics"]
    assert shell("-", "--json", input=data).stdout == found.stdout


def test_states_travel_through_pipes(shell, folder):
    state = shell("check", "valid.npz", "--state", "-", "--no-html")
    assert state.stdout[:2] == b"PK", "the state alone is on standard output"
    merged = shell("merge", "-", "-o", "-", input=state.stdout)
    page = shell("report", "-", input=merged.stdout)
    assert page.stdout == b"stdin.report.html\n", page.stderr
    direct = shell("check", "-", "--json", input=merged.stdout)
    assert json.loads(direct.stdout)["metrics"] == json.loads(shell("check", "valid.npz", "--json").stdout)["metrics"]


def test_a_calibrator_and_decisions_travel_through_pipes(shell, folder):
    fitted = shell("fit", "valid.npz", "-o", "-")
    assert json.loads(fitted.stdout)["method"] == "temperature"
    decided = shell("decide", "test.npz", "--cost", "wrong=9,review=1", "-o", "-")
    assert decided.stdout.startswith(b"id,action,class,log_odds,prob,expected_cost\n0,")
    assert decided.stdout.count(b"\n") == 2001 and b"accepted" in decided.stderr


def test_rubbish_on_standard_input(shell, folder):
    for rubbish in (
        b"",
        b"\x00" * 100,
        b"PK\x03\x04" + b"x" * 100,
        b"\x80\x04N.",
        b"PK\x03\x04".ljust(30, b"x") + b"state.npy",
    ):
        done = shell("check", "-", "--no-html", input=rubbish)
        assert done.returncode == 3 and done.stdout == b""
        assert done.stderr.startswith(b"error: standard input: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["check", "valid.npz"], ["check", "valid.npz", "--json"], ["explain"], ["check", "--help"], ["--help"]],
)
def test_a_closed_pipe_is_silent(folder, arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lastlayer", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert b"Error" not in done.stderr and b"Exception" not in done.stderr
    assert done.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["check", "valid.npz"], ["check", "valid.npz", "--json"], ["explain", "L501"]])
def test_a_full_disk_behind_standard_output(folder, arguments):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "lastlayer", *arguments, "--quiet"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 3
    assert done.stderr == b"error: standard output: could not be written: No space left on device.\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_a_file(shell, folder):
    done = shell("fit", "valid.npz", "-o", "/dev/full")
    assert done.returncode == 3 and done.stdout == b"" and b"No space left on device" in done.stderr


def wait_until_idle(pid):
    """Until a process has used no time for 0.3 s: it waits."""
    stat, before = pathlib.Path(f"/proc/{pid}/stat"), None
    while stat.exists() and before != (used := stat.read_text().rsplit(")", 1)[1].split()[11:13]):
        before = used
        time.sleep(0.3)


def test_control_c_exits_with_130(folder):
    """The command waits for standard input when it is interrupted."""
    code = "import lastlayer.cli as c, lastlayer.cli.check; print('on', flush=True); c.main(['check', '-'])"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout and process.stdout.readline() == b"on\n"
    time.sleep(0.5)
    wait_until_idle(process.pid)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, error) == (b"", b"\n")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}, {"TERM": "dumb"}])
def test_no_escape_codes_in_a_pipe(shell, folder, env):
    done = shell("check", "valid.npz", env=env)
    assert done.returncode == 0 and b"\x1b" not in done.stdout + done.stderr


def test_names_that_no_encoding_holds(shell, folder):
    name = os.fsdecode(b"\xff.npz")
    (folder / "valid.npz").rename(name)
    for arguments in (["check", name], ["check", name, "--json"], ["fit", name, "-o", "c.json"], ["report", name]):
        done = shell(*arguments)
        assert done.returncode == 0, done.stderr
    missing = shell("check", os.fsdecode(b"\xfe.npz"))
    assert missing.returncode == 3 and missing.stderr.startswith(b"error: ") and missing.stderr.count(b"\n") == 1


def imported(code):
    """The heavy packages that running ``code`` imports."""
    asks = f"import sys\nheavy = [m for m in {HEAVY!r} if m in sys.modules]\nprint(heavy, file=sys.stderr)"
    command = f"try:\n    {code}\nexcept SystemExit:\n    pass\n{asks}"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=120)
    return done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["check", "--help"], ["fit", "--help"], ["demo", "--help"], ["chek"]]
)
def test_help_imports_nothing_heavy(arguments):
    assert imported(f"from lastlayer.cli import main; main({arguments!r})") == "[]"


def test_fit_and_decide_load_no_framework(folder):
    found = imported("from lastlayer.cli import main; main(['fit', 'valid.npz', '--json'])")
    assert not set(HEAVY[3:8]) & set(eval(found))


def test_the_progress_bar_is_for_terminals(shell, folder):
    assert b"evaluating" not in shell("check", "valid.npz", "test.npz").stderr
