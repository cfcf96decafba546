"""A few of the kills of `make trust`, in a process that has not trained: its forks need its only thread."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.__main__ import PAGE, write_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_a_killed_run_resumes_to_the_weights_it_would_have_had():
    command = [sys.executable, "-m", "tests.trust", "kill", "--times", "3", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| A training process is killed (SIGKILL) | 3 | ")
    assert "ended with the weights" in done.stdout


def test_a_row_of_the_page_replaces_the_earlier_one(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().split("|---|")[0] + "|---|---|---|---|\n\nEnd.\n")
    monkeypatch.setattr("tests.trust.__main__.PAGE", page)
    row = "| A fault | {} | fine | `python -m tests.trust {} --times {}` |"
    for name, times in (("kill", 1), ("flip", 2), ("kill", 3)):
        write_row(name, row.format(times, name, times))
    rows = [row.format(3, "kill", 3), row.format(2, "flip", 2)]
    assert page.read_text().endswith("\n".join(["|---|---|---|---|", *rows, "", "End.", ""]))
