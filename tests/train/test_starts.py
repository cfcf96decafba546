import dataclasses
import json

import torch

from rlv2v_fast.train.config import LossConfig, NetworkConfig, RLConfig
from rlv2v_fast.train.selection import judged_clips, translation_distance
from rlv2v_fast.train.starts import start_configs
from rlv2v_fast.train.trainer import Trainer, fit, started


def several(config):
    return dataclasses.replace(
        config,
        starts=2,
        start_steps=3,
        network=NetworkConfig(width=4, generator="local", discriminator="patch"),
        loss=LossConfig(recurrent=0, recycle=0, video=0, cycle=1, contrast=1, augment=("translation",)),
        rl=dataclasses.replace(config.rl, weight=0.0),
    )


def test_each_start_has_its_own_seed_and_no_loss_that_holds_it_back(config):
    first, second = start_configs(several(config))
    assert first.seed == config.seed != second.seed
    assert first.loss == second.loss == dataclasses.replace(several(config).loss, cycle=0, contrast=0, augment=())


def test_starts_leave_out_what_looks_at_several_frames_and_take_a_window_of_their_own(config):
    whole = dataclasses.replace(several(config), loss=LossConfig(), rl=RLConfig(weight=0.1), window=4, start_window=1)
    losses = {"loss": LossConfig(recurrent=0, recycle=0, video=0), "rl": RLConfig()}
    for start in start_configs(whole):
        assert start == dataclasses.replace(
            start_configs(several(config))[0], seed=start.seed, window=1, start_window=None, **losses
        )
    assert start_configs(dataclasses.replace(whole, select_every=3)) == start_configs(whole)
    assert start_configs(dataclasses.replace(whole, start_window=None))[0].window == 4


def test_one_start_changes_nothing(config, domains):
    one = dataclasses.replace(several(config), starts=1)
    found, expected = (t.model.state_dict() for t in (started(one, domains)[0], Trainer(one, domains)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_goes_on_from_the_start_nearest_to_the_target_in_each_direction(config, domains):
    config = several(config)
    steps = []
    trainer, told = started(config, domains, lambda: steps.append(1))
    assert (trainer.step, len(steps)) == (0, config.starts * config.start_steps)
    rivals = [Trainer(start, domains) for start in start_configs(config)]
    for rival in rivals:
        for _ in range(config.start_steps):
            rival.iterate()
    clips = judged_clips(domains)
    for direction, domain in (("x2y", "y"), ("y2x", "x")):
        distances = [translation_distance(rival.model, clips, direction) for rival in rivals]
        assert translation_distance(trainer.model, clips, direction) == min(distances)
        assert told[direction] == distances
        best = rivals[distances.index(min(distances))].model
        for group in ("generators", "generators_ema", "discriminators"):
            chosen = getattr(trainer.model, group)[domain].state_dict()
            assert all(torch.equal(chosen[n], t) for n, t in getattr(best, group)[domain].state_dict().items())


def test_a_run_with_several_starts_is_reproducible(config, domains):
    config = several(config)
    again = dataclasses.replace(config, out=config.out.with_name("again"))
    first, second = (fit(each, domains).model.state_dict() for each in (config, again))
    written = [json.loads((each.out / "starts.json").read_text()) for each in (config, again)]
    assert written[0] == written[1]
    assert [len(distances) for distances in written[0].values()] == [2, 2]
    assert all(torch.equal(first[name], second[name]) for name in first)
