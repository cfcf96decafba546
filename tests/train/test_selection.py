import dataclasses
import json

import pytest

from rlv2v_fast.errors import InputError
from rlv2v_fast.metrics.patches import patch_distance
from rlv2v_fast.models.rlv2vgan import RLV2VGAN
from rlv2v_fast.train import selection
from rlv2v_fast.train.checkpoint import best_distance, checkpoints, model_folder
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.selection import is_judged, judged_clips, translation_distance
from rlv2v_fast.train.trainer import Trainer


def selecting(config, **values):
    return dataclasses.replace(config, rl=dataclasses.replace(config.rl, weight=0.0), **{"select_every": 1, **values})


def distances(run):
    """By step."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["distance"] for row in rows if "distance" in row}


def test_models_are_compared_late_in_a_run_and_at_its_end(config):
    def judged(**values):
        each = selecting(config, **values)
        return [step for step in range(1, each.steps + 1) if is_judged(each, step)]

    assert judged(steps=10, select_every=2) == [6, 8, 10]
    assert judged(steps=11, select_every=3) == [9, 11]
    assert judged(steps=2, select_every=100) == [2]
    assert judged(select_every=None) == []


def test_a_run_ends_as_its_model_nearest_to_the_target_clips(config, domains):
    config = selecting(config, steps=6)
    trainer = fit(config, domains)
    told = distances(config.out)
    assert list(told) == [4, 5, 6]
    folder = model_folder(config.out)
    assert folder.parent.name == "best"
    assert folder.name == f"step_{min(told, key=told.get):08d}"
    clips = judged_clips(domains)
    kept = RLV2VGAN.from_pretrained(folder)
    assert translation_distance(kept, clips, "x2y") == min(told.values()) == best_distance(config.out)
    assert translation_distance(trainer.model, clips) == told[6]


def test_models_are_judged_by_two_frames_of_clips_of_every_video(config, domains):
    clips = judged_clips(domains)
    model = Trainer(config, domains).model
    whole = {domain: domains[domain].spread(32) for domain in ("x", "y")}
    for direction, (source, target) in (("x2y", "xy"), ("y2x", "yx")):
        # Frames as they are in a clip, not side by side: this generator remembers.
        frames = model.translate(whole[source], direction)[:, [0, 2]].flatten(0, 1)
        expected = patch_distance(frames, whole[target][:, [0, 2]].flatten(0, 1)).item()
        assert translation_distance(model, clips, direction) == pytest.approx(expected, rel=1e-4)


def test_looking_changes_nothing_of_the_training(config, domains):
    looking, other = selecting(config), selecting(config, select_every=None, out=config.out.with_name("other"))
    first, second = (fit(each, domains).model.state_dict() for each in (looking, other))
    assert all(first[name].equal(second[name]) for name in first)
    assert not (other.out / "best").exists()
    assert distances(other.out) == {}
    assert model_folder(other.out) == checkpoints(other.out)[-1]


def test_a_resumed_run_keeps_a_better_model_of_before(config, domains, monkeypatch):
    told = iter([1.0, 1.0, 0.5])
    monkeypatch.setattr(selection, "translation_distance", lambda *_: next(told))
    fit(selecting(config, steps=2), domains)
    assert model_folder(config.out).name == "step_00000002"
    for steps, best in ((3, 2), (4, 4)):
        fit(selecting(config, steps=steps), domains, resume=True)
        assert model_folder(config.out).name == f"step_{best:08d}"


def test_frames_too_small_to_compare_are_refused_before_training(config):
    for values in ({"select_every": 1}, {"starts": 2}):
        with pytest.raises(InputError, match="size must be at least 16 where starts or select_every compare patches"):
            dataclasses.replace(config, size=8, **values)
    with pytest.raises(InputError, match="select_every must be at least 1; got 0"):
        selecting(config, select_every=0)
