"""Budgets of memory: how much of a video is translated at once, and that it changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlv2v_fast.models import budget
from rlv2v_fast.models.budget import MIB, Cost, portion
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig

ROOT = Path(__file__).resolve().parents[2]
WHOLE, ALONE = Cost(10, 5), Cost(0, 10, alone=True)


@given(
    cost=st.sampled_from([WHOLE, ALONE]),
    pixels=st.integers(1, 10**7),
    bytes_=st.integers(1, 2**32),
    most=st.integers(1, 20),
)
@settings(max_examples=200, deadline=None)
def test_a_portion_fits_unless_it_is_the_least(cost, pixels, bytes_, most):
    found = portion(cost, pixels, bytes_, most)
    assert 1 <= found.frames <= most
    assert found.bytes <= bytes_ or found.frames == 1
    assert found.bytes == (cost.base + cost.frame * found.frames) * pixels


def test_more_memory_takes_more_frames_up_to_the_chunk():
    frames = [portion(WHOLE, 100, memory, 8).frames for memory in (0, 1500, 2000, 3499, 3500, 10**9)]
    assert frames == [1, 1, 2, 4, 5, 8]


def test_a_budget_decides_how_many_frames_enter_a_network(settled):
    model, lengths = settled(RLV2VGAN(ModelConfig(width=2, critics=0))), []
    stream = model.generators_ema["y"].stream
    model.generators_ema["y"].stream = lambda piece, state: (lengths.append(piece.shape[1]), stream(piece, state))[1]
    video = torch.rand(1, 7, 3, 64, 64)
    needed = model.portion(64, 64, chunk=3).bytes / MIB
    model.translate(video, memory=needed * 1.01)
    assert lengths == [3, 3, 1]
    lengths.clear()
    model.translate(video, memory=1e-3)
    assert lengths == [1] * 7


@pytest.mark.parametrize("memory", [0, -1, float("nan")])
def test_a_budget_of_nothing_is_refused_by_name(memory):
    with pytest.raises(ValueError, match=r"memory must be above 0 MiB; got "):
        RLV2VGAN(ModelConfig(width=2, critics=0)).translate(torch.zeros(1, 3, 8, 8), memory=memory)


def test_networks_need_about_what_their_cost_says():
    """Each in a process of its own, whose memory nobody else has had."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell a process its high-water mark")
    code = """
import os
import torch
from rlv2v_fast.models.generator import Generator
from rlv2v_fast.models.local import LocalGenerator
def kib(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
local, plain = LocalGenerator(32), LocalGenerator(32, backend="reference")
for generator, frames in ((local, 1), (plain, 1), (Generator(8), 1), (Generator(8), 4)):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    generator.eval().fuse()
    video = torch.zeros(1, frames, 3, 320, 320)
    with torch.no_grad():
        _, state = generator.stream(video[..., :32, :32])
        open("/proc/self/clear_refs", "w").write("5")
        before = kib("VmRSS")
        _, state = generator.stream(video)
        generator.stream(video, state)
    cost = generator.cost()
    print(1024 * (kib("VmHWM") - before) / ((cost.base + cost.frame * frames) * 320 * 320), flush=True)
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    shares = [float(line) for line in done.stdout.split()]
    assert len(shares) == 4
    assert min(shares) > 0.2, shares
    assert max(shares) < 1.2, shares


def groups(root, limits):
    """A tree of control groups like /sys/fs/cgroup: (limit, usage, reclaimable) by folder."""
    for place, (limit, usage, inactive) in limits.items():
        folder = root / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
    return root


def test_every_group_above_a_process_limits_it(tmp_path):
    root = groups(
        tmp_path / "root", {"a": (1000, 300, 100), "a/b": ("max", 5, 0), "a/b/c": (500, 450, 0), "z": (1, 1, 0)}
    )
    own = tmp_path / "own"
    own.write_text("0::/a/b/c\n")
    assert sorted(budget._left_of_limits(root, own)) == [50, 800]
    own.write_text("0::/\n")
    assert list(budget._left_of_limits(root, own)) == []
    assert list(budget._left_of_limits(root, tmp_path / "missing")) == []


def test_groups_of_the_first_version_are_read_too(tmp_path):
    folder = tmp_path / "root" / "memory" / "docker"
    folder.mkdir(parents=True)
    for name, value in (("limit_in_bytes", 900), ("usage_in_bytes", 200)):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text("total_rss 1\ninactive_file 50\n")
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/docker\n2:memory:/docker\n0::/\n")
    assert list(budget._left_of_limits(tmp_path / "root", own)) == [750]


def test_a_default_budget_is_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(budget, "free_memory", lambda device: 1000 * MIB)
    assert budget.default_budget(torch.device("cpu")) == 250 * MIB
    monkeypatch.setattr(budget, "free_memory", lambda device: 10**15)
    assert budget.default_budget(torch.device("cpu")) == 3072 * MIB


def test_free_memory_is_what_a_process_can_have():
    assert MIB < budget.free_memory(torch.device("cpu")) < 2**50
