"""The training of the look prior: its tasks, its looks, and that it learns."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlv2v_fast.looks.network import NetworkConfig
from rlv2v_fast.looks.prior import load, save
from rlv2v_fast.looks.statistics import STATISTICS
from rlv2v_fast.looks.training.fit import decibels, make_network, train
from rlv2v_fast.looks.training.random_looks import draw
from rlv2v_fast.looks.training.tasks import CLIPS, PIXELS, Tasks, crops, stacked

SMALL = NetworkConfig(width=16, layers=1, hidden=32, rank=8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(24):
        coarse = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def tasks(pictures):
    return stacked(iter(Tasks(crops(pictures), 0)), 120)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pictures must be a folder with pictures"):
        crops(tmp_path)


def test_tasks_have_the_shapes_they_promise(tasks):
    assert tasks["source"].shape == tasks["target"].shape == (120, CLIPS, STATISTICS)
    assert tasks["truth"].shape == (120, PIXELS, 3)
    assert tasks["clips"].min() >= 1
    assert tasks["clips"].max() <= CLIPS
    assert all(torch.isfinite(part.float()).all() for part in tasks.values())


def test_a_seed_gives_the_same_tasks(pictures):
    a, b, c = (stacked(iter(Tasks(crops(pictures), seed)), 4) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["truth"], c["truth"])


def test_random_looks_are_finite_and_differ():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    shown = torch.stack([draw(generator)(x, generator) for _ in range(40)])
    assert torch.isfinite(shown).all()
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert shown.flatten(1).std(0).mean() > 0.05


@pytest.fixture
def network(tasks, monkeypatch):
    monkeypatch.setattr("rlv2v_fast.looks.training.fit._DRAWN", 100)
    return make_network(tasks, SMALL, 0)


def test_a_network_learns(tasks, network):
    before = decibels(network, tasks)
    train(network, tasks, 0.02, log=lambda line: None)
    assert decibels(network, tasks) > before + 0.3


def test_saved_networks_are_loaded_and_agree(tasks, network, tmp_path):
    network.eval()
    save([network, network], tmp_path / "networks.safetensors")
    loaded = load(tmp_path / "networks.safetensors")
    assert len(loaded) == 2
    assert decibels(loaded[0], tasks) == pytest.approx(decibels(network, tasks), abs=0.02)


def test_the_command_writes_networks(pictures, tmp_path):
    arguments = ["--pictures", pictures, "--out", tmp_path / "p.safetensors", "--tasks", 70, "--networks", 1]
    command = [sys.executable, "-m", "rlv2v_fast.looks.training", *map(str, arguments), "--minutes", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0, done.stderr
    assert "SHA-256" in done.stdout
    assert len(load(tmp_path / "p.safetensors")) == 1
