"""Signals to end: raised at once, or held back until a run is saved."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlv2v_fast.data.writer import VideoWriter
from rlv2v_fast.train.signals import SIGNALS, Stopped, held_back, raised

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_signal_is_ignored():
    """Under nohup, SIGHUP is, and then it stays so."""
    previous = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in previous.items():
        if handler is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    yield
    for each, handler in previous.items():
        signal.signal(each, handler)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_each_signal_is_raised_with_its_exit_status(signum, status):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Stopped) as caught, raised():
        signal.raise_signal(signum)
    assert caught.value.exit_status == status
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_signals_are_held_back_but_for_a_second_interrupt():
    with held_back() as came:
        assert came() == 0
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert came() == signal.SIGTERM
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_was_ignored_from_the_start_stays_so():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised(), held_back() as came:
            signal.raise_signal(signal.SIGHUP)
            assert came() == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


SCRIPT = """
import sys, time
from rlv2v_fast import cli
from rlv2v_fast.data.writer import VideoWriter
import numpy as np

def endless(command):
    with VideoWriter(command.output, 16, 16, 5) as writer:
        print("ready", flush=True)
        while True:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            time.sleep(0.01)

cli.COMMANDS[cli.Translate] = endless
cli.main(["translate", "--model", "m", "in.mp4", sys.argv[1]])
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_nothing_behind(tmp_path, signum):
    command = [sys.executable, "-c", SCRIPT, tmp_path / "out.mp4"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    _, told = process.communicate(timeout=60)
    if signum == signal.SIGTERM:
        assert (process.returncode, told) == (143, "rlv2v: terminated\n")
        assert os.listdir(tmp_path) == []
        return
    assert len(os.listdir(tmp_path)) == 1
    with VideoWriter(tmp_path / "out.mp4", 16, 16, 5) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    assert os.listdir(tmp_path) == ["out.mp4"]
