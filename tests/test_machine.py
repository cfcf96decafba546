"""What the command sets for its process, and that neither a user's setting nor a library's is touched."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlv2v_fast import machine

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def told(monkeypatch):
    """What the C library would be told, without telling it."""
    calls = []
    monkeypatch.setattr(machine, "_keep_freed_memory", calls.append)
    return calls


def test_threads_spin_briefly_and_training_keeps_memory(told):
    environment = {}
    machine.settle(environment)
    assert environment == {"GOMP_SPINCOUNT": "2000"}
    machine.settle(environment, trains=True)
    assert told == [2**23, 2**28]


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE"}])
def test_a_users_way_of_waiting_stands(told, own):
    environment = dict(own)
    machine.settle(environment)
    assert environment == own


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_users_way_of_allocating_stands(told, name):
    machine.settle({name: "1"}, trains=True)
    assert told == []


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    machine._keep_freed_memory(2**23)


def run(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MALLOC_"))}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=clean | environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another OpenMP than GCC's")
def test_the_command_says_how_to_wait_before_openmp_is_loaded():
    """OpenMP prints its settings when it is loaded."""
    _, printed = run("-m", "rlv2v_fast", "info", OMP_DISPLAY_ENV="verbose")
    assert "GOMP_SPINCOUNT = '2000'" in printed


def test_importing_the_package_sets_nothing():
    code = """
import ctypes, os
before = dict(os.environ)
import torch
threads = torch.get_num_threads()
import rlv2v_fast.cli, rlv2v_fast.train.run
from rlv2v_fast.train import threads as chosen
print(dict(os.environ) == before, torch.get_num_threads() == threads, chosen._allowed)
"""
    assert run("-c", code)[0].split() == ["True", "True", "False"]
