import dataclasses
import json

import pytest

from rlv2v_fast.metrics.patches import patch_distance
from rlv2v_fast.train.checkpoint import save_best
from rlv2v_fast.train.selection import judged_clips, translation_distance
from rlv2v_fast.train.trainer import Trainer
from rlv2v_fast.train.verdict import Verdict, judge
from tests.train.helpers import without_rl


@pytest.mark.parametrize(("distance", "failed"), [(0.022, False), (0.037, False), (0.041, True), (0.134, True)])
def test_runs_of_day_to_night_are_judged_as_they_came_out(distance, failed):
    verdict = Verdict(distance, source=0.475, spread=0.0126)
    assert verdict.has_failed == failed
    assert ("probably failed" in str(verdict)) == failed
    assert ("another --seed" in str(verdict)) == failed


def test_translations_may_be_as_far_as_the_target_from_itself():
    assert not Verdict(0.05, source=0.1, spread=0.03).has_failed


def test_a_run_that_compares_no_models_is_not_judged(config, domains, tmp_path):
    assert judge(Trainer(without_rl(config), domains), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_best_model_is_judged_or_else_the_last(config, domains, tmp_path):
    trainer = Trainer(dataclasses.replace(without_rl(config), select_every=2), domains)
    clips = judged_clips(domains)
    last = judge(trainer, tmp_path)
    assert last.distance == translation_distance(trainer.model, clips)
    assert last.source == patch_distance(clips["x"][:, [0, -1]].flatten(0, 1), clips["y"][:, [0, -1]].flatten(0, 1))
    save_best(tmp_path, 3, trainer.model, 0.0)
    assert not judge(trainer, tmp_path).has_failed
    assert json.loads((tmp_path / "verdict.json").read_text())["failed"] is False
