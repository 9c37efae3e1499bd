"""Long commands say on a terminal how far they are, and write nothing of it anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.served import ROOT, environment

WAIT_S = 30.0
SLOW = """
import sys, threading
from tokenhub_proxy import progress
progress.DELAY_S = progress.EVERY_S = 0.01
turns = iter(range(100))
drawn = threading.Event()
def fraction():
    turn = next(turns)
    if turn > 4:
        drawn.set()
    return turn / 8
with progress.Progress({label!r}, {options}) as shown:
    shown.count = 1234567
    {wait}
print("the result")
"""


def on_a_terminal(code: str, **more: str) -> str:
    """What a terminal gets on standard error; standard output is a pipe."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment(**{"TERM": "xterm", **more}), stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    told = b""
    try:
        while piece := os.read(ours, 65536):
            told += piece
    except OSError:
        pass  # how a terminal ends on Linux
    finally:
        os.close(ours)
    assert child.communicate(timeout=WAIT_S)[0] == b"the result\n"
    return told.decode()


def code(options: str, wait: str = "drawn.wait(10)", label: str = "copying") -> str:
    return SLOW.format(label=label, options=options, wait=wait)


def test_a_terminal_sees_the_bar_grow_and_then_nothing_of_it() -> None:
    told = on_a_terminal(code("fraction=fraction"))
    assert "\r\x1b[Kcopying  [------------------------------]   0 %" in told
    assert "[###############---------------]  50 %" in told
    assert told.endswith("\r\x1b[K")


def test_without_a_whole_to_measure_by_it_counts() -> None:
    told = on_a_terminal(code("unit='entries'", "import time; time.sleep(0.2)"))
    assert "copying  1,234,567 entries, 0:00" in told


def test_a_pipe_gets_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", code("unit='entries'", "drawn.wait(0.2)")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("the result\n", "")


def test_a_terminal_that_knows_no_codes_gets_nothing() -> None:
    assert on_a_terminal(code("unit='entries'", "drawn.wait(0.2)"), TERM="dumb") == ""


def test_a_command_that_is_quick_says_nothing_on_a_terminal(tmp_path: Path) -> None:
    """The books of a new ledger are added up before anybody could wonder."""
    quick = f"""
import os, sys
os.chdir({str(tmp_path)!r})
from tokenhub_proxy import cli, progress
progress.DELAY_S = 60
sys.stdout = open(os.devnull, "w")
for words in ("accounts create a", "ledger verify", "ledger export", "ledger backup copy.db"):
    if cli.main(words.split()):
        sys.exit(words)
sys.stdout = sys.__stdout__
print("the result")
"""
    told = on_a_terminal(quick).splitlines()
    assert [line.partition(": ")[0] for line in told] == ["No server runs here; a new ledger is made"]


def test_ledger_commands_show_it_on_a_terminal(tmp_path: Path) -> None:
    """Without a delay even the smallest copy is seen on its way."""
    seen = f"""
import os, sys
os.chdir({str(tmp_path)!r})
from tokenhub_proxy import cli, progress
progress.DELAY_S = progress.EVERY_S = 0.0001
sys.stdout = open(os.devnull, "w")
for words in ("accounts create a", "ledger verify", "ledger export", "ledger backup copy.db"):
    if cli.main(words.split()):
        sys.exit(words)
sys.stdout = sys.__stdout__
print("the result")
"""
    told = on_a_terminal(seen)
    for label in ("re-adding the books", "exporting", "copying"):
        assert label in told
