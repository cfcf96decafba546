import dataclasses
import json
import signal
from contextlib import contextmanager

import pytest
import torch

from rlv2v_fast.errors import InputError, TrainingDivergedError
from rlv2v_fast.train.checkpoint import checkpoints
from rlv2v_fast.train.config import LossConfig, NetworkConfig, RLConfig, load_config
from rlv2v_fast.train.run import fit
from rlv2v_fast.train.selection import judged_clips, translation_distance
from rlv2v_fast.train.signals import Stopped
from rlv2v_fast.train.starts import make_trainer, start_configs
from rlv2v_fast.train.trainer import Trainer
from tests.train.helpers import assert_same, weights


def several(config):
    return dataclasses.replace(
        config,
        starts=2,
        start_steps=3,
        network=NetworkConfig(width=4, generator="local", discriminator="patch"),
        loss=LossConfig(recurrent=0, recycle=0, video=0, cycle=1, contrast=1, augment=("translation",)),
        rl=dataclasses.replace(config.rl, weight=0.0),
    )


def test_each_start_has_its_own_seed_and_no_loss_holding_it_back(config):
    first, second = start_configs(several(config))
    assert first.seed == config.seed != second.seed
    assert first.loss == second.loss == dataclasses.replace(several(config).loss, cycle=0, contrast=0, augment=())


def test_starts_look_at_single_frames_and_have_their_own_window(config):
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
    found, expected = (t.model.state_dict() for t in (make_trainer(one, domains)[0], Trainer(one, domains)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_each_direction_goes_on_from_its_nearest_start(config, domains):
    config = several(config)
    steps = []
    trainer, told = make_trainer(config, domains, lambda: bool(steps.append(1)))
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


def test_starts_end_when_it_is_over_and_the_best_goes_on(config, domains):
    config = dataclasses.replace(several(config), starts=3)
    asked = []

    def is_over():
        asked.append(1)
        return len(asked) == 5  # in the second of three starts

    trainer, told = make_trainer(config, domains, is_over)
    assert len(asked) == 5
    assert len(told["x2y"]) == 2
    assert translation_distance(trainer.model, judged_clips(domains)) == min(told["x2y"])


@pytest.mark.parametrize(("failed", "drawn"), [(1e-9, 4), (1e9, 2), (None, 2)])
def test_starts_go_on_until_one_has_not_failed(config, domains, failed, drawn):
    config = dataclasses.replace(several(config), start_steps=1, start_failed=failed)
    _, told = make_trainer(config, domains)
    assert [len(distances) for distances in told.values()] == [drawn, drawn]


def diverging(monkeypatch, seeds):
    iterate = Trainer.iterate

    def poisoned(self):
        if self.config.seed in seeds:
            raise TrainingDivergedError("training diverged: adversarial_x is nan at step 0")
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", poisoned)


def test_a_start_that_diverges_is_out_of_the_race(config, domains, monkeypatch):
    config = several(config)
    bad, good = (start.seed for start in start_configs(config))
    diverging(monkeypatch, {bad})
    monkeypatch.setattr("rlv2v_fast.train.run._train_to_end", lambda *_: None)
    fit(config, domains)
    told = json.loads((config.out / "starts.json").read_text())
    assert [d is None for d in told["x2y"]] == [True, False]
    diverging(monkeypatch, {good})
    with pytest.raises(TrainingDivergedError, match="every start diverged: training diverged: adversarial_x is nan"):
        fit(dataclasses.replace(config, out=config.out.with_name("none")), domains)


def test_the_time_of_a_run_counts_its_starts(config, domains):
    config = dataclasses.replace(several(config), max_minutes=1e-6)
    assert fit(config, domains).step == 0
    assert [len(found) for found in json.loads((config.out / "starts.json").read_text()).values()] == [1, 1]
    assert [p.name for p in checkpoints(config.out)] == ["step_00000000"]


@contextmanager
def interrupted_in(iteration, signum=signal.SIGTERM):
    """Within the context a signal comes in that iteration, counted over starts and run."""
    iterate, done = Trainer.iterate, []

    def counted(self):
        done.append(1)
        if len(done) == iteration:
            signal.raise_signal(signum)
        return iterate(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "iterate", counted)
        yield


def test_starts_resume_to_the_weights_they_would_have_had(config, domains):
    """However often they are stopped: in the first start, at its end, in the second, and in the run."""
    config = dataclasses.replace(several(config), checkpoint_every=100)
    straight = fit(dataclasses.replace(config, out=config.out.with_name("straight")), domains)
    for resume, iteration in ((False, 1), (True, 2), (True, 1), (True, 3)):
        with interrupted_in(iteration), pytest.raises(Stopped) as caught:
            fit(config, domains, resume=resume)
        assert caught.value.exit_status == 143
        with pytest.raises(InputError, match="already holds a run; pass --resume"):
            fit(config, domains)
    assert [p.name for p in checkpoints(config.out)] == ["step_00000001"]
    assert_same(weights(fit(config, domains, resume=True)), weights(straight))
    told = [json.loads((out / "starts.json").read_text()) for out in (config.out, config.out.with_name("straight"))]
    assert told[0] == told[1]
    assert not (config.out / "starts").exists()


def test_killed_starts_resume_from_what_was_saved_last(config, domains, monkeypatch):
    config = dataclasses.replace(several(config), checkpoint_every=2)
    straight = fit(dataclasses.replace(config, out=config.out.with_name("straight")), domains)

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("rlv2v_fast.train.run._train_to_end", killed)  # every start is judged, no checkpoint is written
        with pytest.raises(Killed):
            fit(config, domains)
    done = []
    iterate = Trainer.iterate
    monkeypatch.setattr(Trainer, "iterate", lambda self: done.append(1) or iterate(self))
    assert_same(weights(fit(config, domains, resume=True)), weights(straight))
    assert len(done) == config.steps


def test_unfinished_starts_refuse_what_would_change_the_run(config, domains):
    config = several(config)
    with interrupted_in(2), pytest.raises(Stopped):
        fit(config, domains)
    with pytest.raises(InputError, match="start_steps cannot change when resuming: the run has 3; got 5"):
        fit(dataclasses.replace(config, start_steps=5), domains, resume=True)
    with pytest.raises(InputError, match="target holds other videos"):
        fit(config, {"x": domains["x"], "y": domains["x"]}, resume=True)
    assert load_config(config.out / "config.yaml") == config


def test_each_direction_takes_its_first_best_start(config, domains, monkeypatch):
    config = dataclasses.replace(several(config), starts=3, start_steps=1)
    told = {"x2y": iter([0.2, 0.2, 0.3]), "y2x": iter([0.2, 0.1, 0.3])}
    monkeypatch.setattr(
        "rlv2v_fast.train.starts.translation_distance", lambda model, clips, direction: next(told[direction])
    )
    trainer, _ = make_trainer(config, domains)
    for domain, best in (("y", 0), ("x", 1)):
        rival = Trainer(start_configs(config)[best], domains)
        rival.iterate()
        expected = rival.model.generators[domain].state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in trainer.model.generators[domain].state_dict().items())
