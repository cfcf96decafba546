import dataclasses

import pytest
import torch

from rlv2v_fast.train import recipe
from rlv2v_fast.train.config import load_config
from rlv2v_fast.train.recipe import choose, duration, estimated_minutes
from rlv2v_fast.train.trainer import Trainer
from tests.train.helpers import assert_same, small, weights


def videos(folder, count):
    folder.mkdir()
    for index in range(count):
        (folder / f"{index}.mp4").touch()
    return folder


@pytest.mark.parametrize(("gpu", "preset"), [(False, "few-shot-cpu"), (True, "few-shot-gpu")])
def test_the_recipe_is_that_of_the_device(monkeypatch, tmp_path, gpu, preset):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    chosen = choose("auto", videos(tmp_path / "night", 8))
    assert chosen.preset == preset
    assert load_config(chosen.preset).starts > 1
    assert chosen.reason == f"this runs on a {'GPU' if gpu else 'CPU'} and the target has 8 videos"
    assert choose("cpu", None).preset == "few-shot-cpu"


def test_the_number_of_target_videos_is_told(tmp_path):
    assert choose("cpu", videos(tmp_path / "one", 1)).reason.endswith("the target has 1 video")
    assert choose("cpu", videos(tmp_path / "nine", 9), few_shot=4).reason.endswith("the target has 4 videos")
    assert "no other was measured to work, with 41 target" in choose("cpu", videos(tmp_path / "many", 41)).reason
    assert choose("cuda:99", tmp_path / "missing").preset == "few-shot-cpu"


def test_an_estimate_counts_starts_and_both_parts_of_the_run(config, domains, monkeypatch):
    config = dataclasses.replace(small(config), starts=3, start_steps=100, steps=1000)
    seconds = iter([0.1, 0.2, 0.6])
    watched = []
    monkeypatch.setattr(recipe, "_seconds", lambda trainer: watched.append(trainer) or next(seconds))
    # The cycle loss begins at half of the run.
    assert estimated_minutes(config, domains) == pytest.approx((300 * 0.1 + 500 * 0.2 + 500 * 0.6) / 60)
    assert [trainer._cycle_weight() for trainer in watched] == [0, 0, 1]


def test_an_estimate_is_bounded_by_the_clock_and_changes_nothing(config, domains):
    config = dataclasses.replace(small(config), steps=10**6)
    expected = Trainer(config, domains)
    assert estimated_minutes(config, domains) > 1
    assert estimated_minutes(dataclasses.replace(config, max_minutes=1.0), domains) == 1
    assert_same(weights(Trainer(config, domains)), weights(expected))


def test_durations_are_said_as_roughly_as_they_are_known():
    told = [duration(minutes) for minutes in (0.2, 1.2, 14.4, 300, 5000)]
    assert told == ["less than a minute", "about 1 minute", "about 14 minutes", "about 5.0 hours", "about 3.5 days"]
